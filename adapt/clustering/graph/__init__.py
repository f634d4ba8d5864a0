"""Sparse neighbor graphs and the distances on them."""
