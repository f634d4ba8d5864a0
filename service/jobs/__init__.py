"""Adaptations that the server runs: rows, folders, processes."""
