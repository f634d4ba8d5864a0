"""Settings of the graph and of the clustering that the parts share."""

from __future__ import annotations

from adapt.clustering.graph.jaccard import Variant

K1: dict[Variant, int] = {"classic": 20, "faiss": 30}
K2 = 6
MIN_SAMPLES = 4
RHO = 1.6e-3
