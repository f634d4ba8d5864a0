"""Merging of clusters: by hand, as properties, against a reference, pinned, and run away."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from adapt.clustering.graph.rows import NearestLists
from adapt.clustering.labels.merging import merge_clusters, refuse_chain
from adapt.errors import ClusteringError
from adapt.types import OUTLIER

# Clusters A = {0, 1}, B = {2, 3, 4}, C = {5, 6}; 7 is an outlier.
LABELS = np.array([0, 0, 1, 1, 1, 2, 2, OUTLIER])
NONE = np.full((8, 1), -1, np.int32)


def lists(nearest: dict[int, int], cross_camera: dict[int, int] | None = None) -> NearestLists:
    """One neighbor of each kind for the images that are named."""
    pair = [NONE.copy(), NONE.copy()]
    for column, named in zip(pair, (nearest, cross_camera or {}), strict=True):
        for image, other in named.items():
            column[image] = other
    return NearestLists(*pair)


def reference(
    labels: NDArray[np.int64], near: NDArray[np.int32], across: NDArray[np.int32], threshold: float
) -> tuple[list[int], float]:
    """Equations 1 to 4 as printed, over all pairs of clusters, then flooding."""
    clusters = sorted(set(labels.tolist()) - {OUTLIER})
    members = {c: np.flatnonzero(labels == c).tolist() for c in clusters}

    def hit(image: int, cluster: int, listed: list[int]) -> bool:
        return any(other >= 0 and labels[other] == cluster for other in listed)

    def knc(a: int, b: int) -> int:
        union = {i: [*near[i].tolist(), *across[i].tolist()] for i in members[a]}
        return sum(hit(i, b, union[i]) for i in members[a])

    joined = {c: {c} for c in clusters}
    total = lost = 0
    for a in clusters:
        for b in clusters:
            if a == b:
                continue
            total += knc(a, b)
            lost += knc(a, b) - sum(hit(i, b, near[i].tolist()) for i in members[a])
            both = knc(a, b) / len(members[a]), knc(b, a) / len(members[b])
            if min(both) > threshold:
                union = joined[a] | joined[b]
                for c in union:
                    joined[c] = union
    names = sorted({min(group) for group in joined.values()})
    merged = [OUTLIER if y < 0 else names.index(min(joined[y])) for y in labels.tolist()]
    return merged, lost / total if total else 0.0


def test_connected_both_ways_by_hand() -> None:
    # Both of A see B, and two of three of B see A: 1 > 1/2 and 2/3 > 1/2.
    found = merge_clusters(LABELS, lists({0: 2, 1: 4, 2: 0, 3: 0}), 0.5)
    assert found.labels.tolist() == [0, 0, 0, 0, 0, 1, 1, OUTLIER]
    assert found.joined.tolist() == [2, 1]
    assert (found.merges, found.longest_chain, str(found)) == (1, 2, "3 clusters merged to 2")
    assert found.cross_camera_share == 0


def test_connected_one_way_only_by_hand() -> None:
    found = merge_clusters(LABELS, lists({0: 2, 1: 4, 2: 0}), 0.5)  # B -> A: 1/3
    assert found.labels.tolist() == LABELS.tolist()
    assert (found.merges, found.longest_chain) == (0, 1)


def test_the_threshold_is_strict() -> None:
    half = lists({0: 5, 5: 0, 6: 1})  # A -> C: 1/2, C -> A: 1
    assert merge_clusters(LABELS, half, 0.5).merges == 0
    assert merge_clusters(LABELS, half, 0.49).merges == 1


def test_cross_camera_neighbors_connect_as_well() -> None:
    near, across = {0: 2, 1: 4}, {0: 3, 2: 0, 4: 1}
    assert merge_clusters(LABELS, lists(near), 0.5).merges == 0
    found = merge_clusters(LABELS, lists(near, across), 0.5)
    assert found.merges == 1
    assert found.cross_camera_share == pytest.approx(2 / 4)  # of 0, 1, 2, 4 the last two


def test_outliers_connect_nothing_and_stay_outliers() -> None:
    found = merge_clusters(LABELS, lists({0: 7, 1: 7, 7: 0}), 0.0)
    assert found.labels.tolist() == LABELS.tolist()


def test_what_hangs_together_through_others_is_one() -> None:
    # A with B, B with C; A and C do not see each other.
    chain = lists({0: 2, 1: 2, 2: 0, 3: 0, 4: 5, 5: 2, 6: 2}, {2: 5, 3: 5})
    found = merge_clusters(LABELS, chain, 0.5)
    assert found.labels.tolist() == [0] * 7 + [OUTLIER]
    assert found.joined.tolist() == [3]


def test_clusters_keep_the_order_of_their_first() -> None:
    labels = np.array([0, 1, 2, 3, 4])
    near = np.array([[-1], [4], [-1], [-1], [1]], np.int32)
    found = merge_clusters(labels, NearestLists(near, np.empty((5, 0), np.int32)), 0.5)
    assert found.labels.tolist() == [0, 1, 2, 3, 1]


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), threshold=st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 0.75]))
def test_equals_the_reference(seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    clusters = int(rng.integers(1, 7))
    labels = rng.permutation(np.r_[np.arange(clusters), rng.integers(-1, clusters, 14)])
    near, across = (
        rng.integers(-1, len(labels), (len(labels), width)).astype(np.int32) for width in (1, 2)
    )
    found = merge_clusters(labels, NearestLists(near, across), threshold)
    merged, share = reference(labels, near, across, threshold)
    assert found.labels.tolist() == merged
    assert found.cross_camera_share == pytest.approx(share)
    assert found.merges == clusters - (max(merged) + 1)
    assert found.joined.sum() == clusters


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_lower_threshold_only_merges_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(6), 3))
    near = rng.integers(0, 18, (18, 3)).astype(np.int32)
    none = np.empty((18, 0), np.int32)
    merged = [merge_clusters(labels, NearestLists(near, none), t) for t in (0.7, 0.4, 0.1)]
    for finer, coarser in pairwise(merged):
        pairs = {*zip(finer.labels.tolist(), coarser.labels.tolist(), strict=True)}
        assert len(pairs) == len(finer.joined), "each cluster lies in one"


def test_pinned() -> None:
    rng = np.random.default_rng(0)
    labels = np.sort(rng.integers(0, 9, 40))
    near = rng.integers(0, 40, (40, 4)).astype(np.int32)
    across = rng.integers(0, 40, (40, 2)).astype(np.int32)
    found = merge_clusters(labels, NearestLists(near, across), 0.5)
    assert found.joined.tolist() == [3, 1, 4, 1]
    assert found.cross_camera_share == pytest.approx(0.2886, abs=5e-5)


def test_no_cluster_and_no_image() -> None:
    for labels in (np.full(4, OUTLIER), np.empty(0, np.int64)):
        empty = np.zeros((len(labels), 2), np.int32)
        found = merge_clusters(labels, NearestLists(empty, empty), 0.5)
        assert found.labels.tolist() == labels.tolist()
        assert (found.merges, found.longest_chain) == (0, 0)
        refuse_chain(found)


def test_a_chain_through_most_images_is_refused() -> None:
    chain = lists({0: 2, 1: 2, 2: 0, 3: 0, 4: 5, 5: 2, 6: 2}, {2: 5, 3: 5})
    with pytest.raises(ClusteringError, match="3 of 3 clusters one, with 7 of 7"):
        refuse_chain(merge_clusters(LABELS, chain, 0.5))


def test_a_large_cluster_that_was_not_merged_is_no_chain() -> None:
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 2])
    near = np.full((8, 1), -1, np.int32)
    near[6], near[7] = 7, 6
    found = merge_clusters(labels, NearestLists(near, near), 0.5)
    assert found.merges == 1
    refuse_chain(found)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="threshold"):
        merge_clusters(LABELS, lists({}), 1.0)
    with pytest.raises(ValueError, match="lists of 8 images do not fit 7"):
        merge_clusters(LABELS[:7], lists({}), 0.5)
