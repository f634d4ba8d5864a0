"""Pseudo labels: clustering algorithms, merging, soft weights, guards against collapse."""
