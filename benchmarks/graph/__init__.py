"""Benchmark of the neighbour graph, a module per part."""
