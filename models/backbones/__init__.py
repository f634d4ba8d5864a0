"""Embedding networks (torch)."""
