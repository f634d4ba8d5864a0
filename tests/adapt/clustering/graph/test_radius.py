"""Radius rules: by hand, against a dense reference, pinned, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array

from adapt.clustering.graph.jaccard import JaccardGraph
from adapt.clustering.graph.radius import radius_by_pairs, radius_by_rho
from adapt.clustering.graph.rows import StoredGraph
from adapt.errors import ClusteringError


def symmetric(images: int, pairs: dict[tuple[int, int], float]) -> StoredGraph:
    """Diagonal zeros and the given pairs, both ways."""
    entries = {(i, i): 0.0 for i in range(images)}
    for (i, j), value in pairs.items():
        entries[i, j] = entries[j, i] = value
    rows, columns = zip(*entries, strict=True)
    values = np.array(list(entries.values()), np.float32)
    return StoredGraph(csr_array((values, (rows, columns)), (images, images)))


def dense(distances: csr_array) -> NDArray[np.float64]:
    full = np.ones(distances.shape)
    coo = distances.tocoo()
    full[coo.row, coo.col] = coo.data
    return full


FOUR = symmetric(4, {(0, 1): 0.1, (0, 2): 0.2, (1, 2): 0.4, (2, 3): 0.0})


def test_by_hand() -> None:
    # six pairs: 0.0 (a copy, ignored), 0.1, 0.2, 0.4 and two that are 1
    assert radius_by_pairs(FOUR, 0.5) == pytest.approx(0.15)
    assert radius_by_pairs(FOUR, 0.75) == pytest.approx(0.7 / 3)
    assert radius_by_pairs(FOUR, 1) == pytest.approx(1.7 / 4)  # one of the missing pairs
    assert radius_by_pairs(FOUR, 100) == pytest.approx(2.7 / 5)  # there are no more than five
    assert radius_by_rho(FOUR, 0.4) == pytest.approx(0.15)  # two of five
    assert radius_by_rho(FOUR, 1.0) == pytest.approx(2.7 / 5)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.01, 1))
def test_equals_the_dense_rule(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    features = np.repeat(rng.normal(size=(10, 6)), 5, axis=0) + rng.normal(size=(50, 6)) / 2
    features[7] = features[8]
    distances = JaccardGraph(features.astype(np.float32), k1=6, k2=3, variant="faiss")
    upper = dense(distances.distances(1.0))[np.triu_indices(50, 1)]
    upper = np.sort(upper[upper > 1e-6])
    by_rho = min(upper[: round(share * len(upper))].mean(), 0.95)
    assert radius_by_rho(distances, share) == pytest.approx(by_rho, rel=1e-6)
    if round(share * 50):
        by_pairs = min(upper[: round(share * 50)].mean(), 0.95)
        assert radius_by_pairs(distances, share) == pytest.approx(by_pairs, rel=1e-6)


def test_both_rules_agree_at_their_common_size() -> None:
    features = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    distances = JaccardGraph(features, k1=20, k2=6, variant="classic")
    assert radius_by_rho(distances, 0.02) == pytest.approx(
        radius_by_pairs(distances, 0.02 * 399 / 2)
    )


def test_rounding_near_zero_counts_as_zero() -> None:
    noisy = symmetric(4, {(0, 1): 1e-7, (0, 2): 0.2, (1, 2): 0.4, (2, 3): 9e-7})
    assert radius_by_pairs(noisy, 0.5) == pytest.approx(0.3)


def test_small_distances_count() -> None:
    burst = symmetric(4, {(0, 1): 5e-6, (0, 2): 0.2, (1, 2): 0.4})
    assert radius_by_pairs(burst, 0.5) == pytest.approx(0.1, abs=1e-5)  # of 0.000005 and 0.2
    assert radius_by_rho(burst, 0.2) == pytest.approx(5e-6, rel=1e-6)  # one of six


def test_a_radius_near_one_is_cut() -> None:
    assert radius_by_pairs(symmetric(5, {(0, 1): 0.99}), 1) == 0.95
    assert radius_by_pairs(FOUR, 1) < 0.95


@pytest.mark.parametrize("images", [1, 3])
def test_nothing_to_measure_is_refused(images: int) -> None:
    copies = symmetric(images, {(i, j): 0.0 for i in range(images) for j in range(i)})
    for rule in (radius_by_pairs, radius_by_rho):
        with pytest.raises(ClusteringError, match="no radius can be measured"):
            rule(copies, 0.9)


def test_a_site_too_small_for_rho_is_refused() -> None:
    features = np.random.default_rng(1).normal(size=(20, 8)).astype(np.float32)
    distances = JaccardGraph(features, k1=4, k2=2, variant="faiss")
    with pytest.raises(ClusteringError, match="use pairs instead of rho"):
        radius_by_rho(distances, 1.6e-3)
    assert 0 < radius_by_pairs(distances, 2) < 1


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_settings_out_of_range_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="pairs_per_image"):
        radius_by_pairs(FOUR, value)
    with pytest.raises(ValueError, match="rho"):
        radius_by_rho(FOUR, value)
    with pytest.raises(ValueError, match="rho"):
        radius_by_rho(FOUR, 1.5)
