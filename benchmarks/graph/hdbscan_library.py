"""Part `hdbscan`: against the hdbscan library on the dense matrix."""

from __future__ import annotations

import argparse
import itertools
import time

import hdbscan
import numpy as np
from scipy.sparse import csr_array

from adapt.clustering.graph.jaccard import JaccardGraph
from adapt.clustering.labels.hdbscan import REACH, cluster_hdbscan
from benchmarks.graph.agreement import ari, count_moved, counts, singles
from benchmarks.graph.dense import dense_jaccard, dense_neighbors
from benchmarks.graph.rules import within
from benchmarks.graph.settings import K1, K2
from benchmarks.graph.sites import PER_PERSON, site
from benchmarks.graph.tables import head, line


def hdbscan_library(options: argparse.Namespace) -> None:
    """HDBSCAN on the sparse graph, whole and cut, against the library on the dense matrix."""
    head(
        "min_samples 8, min_cluster_size 8.",
        *("N", "variant", "distances", "clusters, outliers", "ARI to the library"),
        *("images in another cluster", "seconds", "entries", "MB they take"),
    )
    few = JaccardGraph(site(500, PER_PERSON).features, k1=20, k2=K2, variant="classic")
    cluster_hdbscan(few.distances(1.0), min_samples=8, min_cluster_size=8)  # compiles
    for images, variant in itertools.product(options.sizes or (4000,), K1):
        features = site(images, PER_PERSON).centered().features
        graph = JaccardGraph(features, k1=K1[variant], k2=K2, variant=variant)
        near = dense_neighbors(features, K1[variant] + 1)
        jaccard = dense_jaccard(features, near, k1=K1[variant], k2=K2, variant=variant)
        start = time.monotonic()
        library = hdbscan.HDBSCAN(min_cluster_size=8, min_samples=8, metric="precomputed")
        theirs = library.fit_predict(jaccard.astype(np.float64))
        seconds = time.monotonic() - start
        line(f"{images:,}", variant, "library, dense", counts(theirs), "", "", f"{seconds:.1f}",
             "", "")  # fmt: skip
        for cut in (1.0, REACH, 0.9, 0.75):
            distances = within(graph, cut)
            start = time.monotonic()
            ours = cluster_hdbscan(distances, min_samples=8, min_cluster_size=8).labels
            seconds = time.monotonic() - start
            agreement = f"{ari(singles(theirs), ours):.4f}", count_moved(ours, theirs)
            size = f"{distances.nnz:,}", f"{_bytes(distances) / 1e6:.1f}"
            line(f"{images:,}", variant, f"ours, to {cut}", counts(ours), *agreement,
                 f"{seconds:.1f}", *size)  # fmt: skip


def _bytes(matrix: csr_array) -> int:
    return int(matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes)
