"""Benchmark of the neighbor graph, a module per part."""
