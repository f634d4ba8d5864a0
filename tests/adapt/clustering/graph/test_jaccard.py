"""Sparse Jaccard distance: by hand, as properties, against a dense reference, pinned."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array

from adapt.clustering.graph.jaccard import JaccardGraph, jaccard_distance
from adapt.clustering.graph.rows import stack_rows
from adapt.clustering.labels.dbscan import cluster_dbscan
from adapt.errors import DataError, NonFiniteFeaturesError

Variant = Literal["classic", "faiss"]
VARIANTS: tuple[Variant, ...] = ("classic", "faiss")


def reference(
    features: NDArray[np.float32], k1: int, k2: int, variant: Variant
) -> NDArray[np.float64]:
    """Methods as printed: dense, sets and loops."""
    unit = features.astype(np.float64)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    n = len(unit)
    d2 = np.array([[((u - v) ** 2).sum() for v in unit] for u in unit])
    ranking = [
        sorted(range(n), key=[float(x) for x in d2[i].round(6)].__getitem__) for i in range(n)
    ]
    for i, row in enumerate(ranking):
        row.remove(i)
        row.insert(0, i)
    reach = k1 + 1 if variant == "classic" else k1
    half = {0: 0, 1: 0, 2: 1, 3: 2, 4: 2, 5: 2, 6: 3, 7: 4, 20: 10, 30: 15}[k1] + 1

    def near(i: int, k: int) -> set[int]:
        return set(ranking[i][:k])

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in near(i, k) if i in near(j, k)}

    encoding = np.zeros((n, n))
    for i in range(n):
        base = reciprocal(i, reach)
        expanded = set(base)
        for c in base:
            candidate = reciprocal(c, half)
            if 3 * len(candidate & base) > 2 * len(candidate):
                expanded |= candidate
        for j in expanded:
            w = d2[i, j]
            if variant == "classic":
                w = d2[i, j] / d2[i].max() if d2[i].max() > 1e-6 else 0.0
            encoding[i, j] = math.exp(-w)
        encoding[i] /= encoding[i].sum()
    if k2 > 1:
        width = k2 if variant == "classic" else min(k1, k2)  # all that its search returned
        encoding = np.stack([encoding[ranking[i][:width]].mean(axis=0) for i in range(n)])
    jaccard = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            least = np.minimum(encoding[i], encoding[j]).sum()
            most = np.maximum(encoding[i], encoding[j]).sum()
            jaccard[i, j] = max(0.0, 1 - least / most)
    return jaccard


def dense(distances: csr_array) -> NDArray[np.float64]:
    """Stored values, 1 elsewhere."""
    full = np.ones(distances.shape)
    coo = distances.tocoo()
    full[coo.row, coo.col] = coo.data
    return full


def people(seed: int, count: int = 6, each: int = 6, noise: float = 0.5) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    center = np.repeat(rng.normal(size=(count, 8)), each, axis=0)
    return (center + noise * rng.normal(size=center.shape)).astype(np.float32)


@pytest.mark.slow
@settings(max_examples=25, derandomize=True)  # float32 near ties may swap
@given(
    seed=st.integers(0, 2**32 - 1),
    k1=st.integers(1, 7),
    k2=st.integers(1, 6),
    variant=st.sampled_from(VARIANTS),
    noise=st.sampled_from([0.1, 0.5, 1.5]),
)
def test_equals_the_reference(seed: int, k1: int, k2: int, variant: Variant, noise: float) -> None:
    features = people(seed, noise=noise)
    found = jaccard_distance(features, k1=k1, k2=k2, variant=variant)
    np.testing.assert_allclose(dense(found), reference(features, k1, k2, variant), atol=2e-6)


@pytest.mark.parametrize(("variant", "k1"), [("classic", 20), ("faiss", 30)])
def test_equals_the_reference_with_the_papers_constants(variant: Variant, k1: int) -> None:
    features = people(0, count=8, each=12, noise=0.8)
    found = jaccard_distance(features, k1=k1, k2=6, variant=variant)
    np.testing.assert_allclose(dense(found), reference(features, k1, 6, variant), atol=2e-6)


def test_three_images_by_hand() -> None:
    # Two images at 60 degrees (d2 = 1) and the first one's opposite (d2 = 4 and 3).
    angle = np.deg2rad([0, 60, 180])
    features = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    # faiss, k1 = 2: R = {0,1}, {0,1}, {2}; half lists the same. V rows (a, b, 0), (b, a, 0) and
    # (0, 0, 1) with a = 1 / (1 + 1/e): s(0,1) = 2 b, b = 1 / (1 + e).
    shared = 2 / (1 + math.e)
    expected = 1 - shared / (2 - shared)
    found = jaccard_distance(features, k1=2, k2=1, variant="faiss")
    wanted = np.array([[0, expected, 1], [expected, 0, 1], [1, 1, 0]])
    np.testing.assert_allclose(dense(found), wanted, atol=1e-6)
    assert found.nnz == 5
    # classic, k1 = 1: the same sets, w(0,1) = 1/4 and w(1,0) = 1/3.
    near, far = 1 / (1 + math.exp(1 / 4)), 1 / (1 + math.exp(1 / 3))
    shared = min(1 - near, far) + min(near, 1 - far)
    expected = 1 - shared / (2 - shared)
    found = jaccard_distance(features, k1=1, k2=1, variant="classic")
    np.testing.assert_allclose(dense(found)[0], [0, expected, 1], atol=1e-6)
    # query expansion over the first two: all of 0 and 1 alike, the third half of each
    found = jaccard_distance(features, k1=1, k2=2, variant="classic")
    assert dense(found)[0, 1] == pytest.approx(0, abs=1e-7)
    assert dense(found)[0, 2] == pytest.approx(1 - 0.5 / 1.5, abs=1e-6)


@settings(max_examples=25, derandomize=True)  # float32 near ties may swap
@given(seed=st.integers(0, 2**32 - 1), variant=st.sampled_from(VARIANTS))
def test_properties(seed: int, variant: Variant) -> None:
    features = people(seed)
    found = jaccard_distance(features, k1=6, k2=3, variant=variant)
    full = dense(found)
    assert (full == full.T).all()
    assert (full.diagonal() == 0).all()
    assert len(found.data) >= len(features)  # the zeros are stored
    assert found.data.min() >= 0
    assert found.data.max() <= 1
    assert found.dtype == np.float32
    order = np.random.default_rng(seed).permutation(len(features))
    shuffled = dense(jaccard_distance(features[order], k1=6, k2=3, variant=variant))
    np.testing.assert_allclose(shuffled, full[np.ix_(order, order)], atol=2e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_symmetric_to_the_last_bit_with_the_papers_constants(variant: Variant) -> None:
    features = people(9, count=20, each=15, noise=1.0)
    found = jaccard_distance(features, k1=25, k2=6, variant=variant)
    assert (dense(found) == dense(found).T).all()


def test_pinned_values() -> None:
    features = np.sin(np.arange(40, dtype=np.float32) ** 1.5).reshape(10, 4)
    classic = jaccard_distance(features, k1=4, k2=2, variant="classic")
    faiss = jaccard_distance(features, k1=4, k2=2, variant="faiss")
    assert float(dense(classic).sum()) == pytest.approx(63.761576, abs=1e-5)
    assert float(dense(faiss).sum()) == pytest.approx(73.110627, abs=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_far_pairs_are_left_out(variant: Variant) -> None:
    features = people(3)
    everything = dense(jaccard_distance(features, k1=6, k2=3, variant=variant))
    near = jaccard_distance(features, k1=6, k2=3, variant=variant, max_distance=0.5)
    assert near.nnz == (everything <= 0.5).sum()
    stored = near.tocoo()
    np.testing.assert_array_equal(stored.data, everything[stored.row, stored.col])


@pytest.mark.parametrize("variant", VARIANTS)
def test_copies_of_an_image(variant: Variant) -> None:
    features = np.repeat(people(4, count=3, each=2), [1, 4, 1, 1, 3, 1], axis=0)
    found = dense(jaccard_distance(features, k1=4, k2=2, variant=variant))
    np.testing.assert_allclose(found, reference(features, 4, 2, variant), atol=2e-6)
    same = dense(jaccard_distance(np.tile(features[:1], (5, 1)), k1=20, k2=6, variant=variant))
    assert (same == 0).all()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("images", [1, 2, 3])
def test_fewer_images_than_neighbors(images: int, variant: Variant) -> None:
    features = people(5)[[0, 6, 12][:images]]
    found = jaccard_distance(features, k1=30, k2=6, variant=variant)
    np.testing.assert_allclose(dense(found), reference(features, 30, 6, variant), atol=2e-6)


def test_scale_precision_and_layout_do_not_matter() -> None:
    features = people(6)
    expected = dense(jaccard_distance(features, k1=6, k2=3, variant="faiss"))
    wide = np.repeat(features, 2, axis=1)[:, ::2]
    for other in (features.astype(np.float64) * 7, np.asfortranarray(features), wide):
        found = jaccard_distance(other.astype(other.dtype, copy=False), k1=6, k2=3, variant="faiss")
        np.testing.assert_allclose(dense(found), expected, atol=2e-6)


def test_unusable_features_are_refused() -> None:
    with pytest.raises(DataError, match="no features"):
        jaccard_distance(np.empty((0, 4), np.float32), k1=20, k2=6, variant="classic")
    features = people(7)
    features[3, 0] = np.inf
    with pytest.raises(NonFiniteFeaturesError, match="row 3"):
        jaccard_distance(features, k1=20, k2=6, variant="classic")


@pytest.mark.parametrize(
    ("k1", "k2", "variant", "longest"),
    [(0, 6, "faiss", 1), (30, 0, "faiss", 1), (30, 6, "other", 1), (30, 6, "faiss", 0)],
)
def test_constants_out_of_range_are_refused(
    k1: int, k2: int, variant: Variant, longest: float
) -> None:
    with pytest.raises(ValueError, match="must be"):
        jaccard_distance(people(8), k1=k1, k2=k2, variant=variant, max_distance=longest)


def test_a_graph_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="must be"):
        JaccardGraph(people(8), k1=0, k2=6, variant="faiss")
    graph = JaccardGraph(people(8), k1=6, k2=3, variant="faiss")
    for longest in (0.0, 1.01, math.nan):
        with pytest.raises(ValueError, match="max_distance"):
            graph.rows(longest)


@pytest.mark.parametrize("variant", VARIANTS)
def test_cut_graphs_equal_the_whole_one_below_the_cut(variant: Variant) -> None:
    features = people(10, count=40, each=10, noise=1.0)
    features[[7, 200, 399]] = features[0]
    graph = JaccardGraph(features, k1=20, k2=6, variant=variant)
    assert graph.images == 400
    whole = dense(graph.distances(1.0))
    for longest in (0.05, 0.3, 0.5, 0.75, 0.9):
        cut = JaccardGraph(features, k1=20, k2=6, variant=variant).distances(longest)
        kept = whole <= longest
        assert cut.nnz == kept.sum()
        np.testing.assert_array_equal(dense(cut), np.where(kept, whole, 1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_are_those_of_the_matrix(variant: Variant) -> None:
    graph = JaccardGraph(people(11, count=120, each=5), k1=6, k2=3, variant=variant)
    blocks = list(graph.rows(0.6))
    assert [block.first for block in blocks] == [0, 512]
    assert all((np.diff(block.column) > 0)[np.diff(block.row) == 0].all() for block in blocks)
    rows, matrix = stack_rows(blocks), graph.distances(0.6)
    for one, other in zip(
        (rows.indptr, rows.indices, rows.data),
        (matrix.indptr, matrix.indices, matrix.data),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_a_graph_keeps_the_widest_matrix_and_gives_what_was_asked_for() -> None:
    graph = JaccardGraph(people(12), k1=6, k2=3, variant="faiss")
    near = graph.distances(0.5)
    assert graph.distances(0.5) is near
    far = graph.distances(0.9)
    assert far.nnz > near.nnz
    assert graph.distances(0.9) is far
    again = graph.distances(0.5)  # what was asked for before does not show
    np.testing.assert_array_equal(dense(again), dense(near))
    assert again.nnz == near.nnz
    assert graph.distances(0.9) is far


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("longest", [0.4, 1.0])
def test_the_form_for_a_device_gives_the_same(variant: Variant, longest: float) -> None:
    features = people(13, count=20, each=10, noise=1.0)
    features[[5, 150]] = features[0]
    constants: dict[str, Any] = {"k1": 20, "k2": 6, "variant": variant, "max_distance": longest}
    ours = jaccard_distance(features, **constants)
    other = jaccard_distance(features, **constants, device=torch.device("cpu"))
    np.testing.assert_allclose(dense(other), dense(ours), atol=1e-6)


def clear_radius(distances: csr_array) -> float:
    """In the widest gap of the distances: rounding cannot move a pair across it."""
    values = np.unique(distances.data[(distances.data > 0.2) & (distances.data < 0.8)])
    widest = int(np.diff(values).argmax())
    return float(values[widest : widest + 2].mean())


@settings(max_examples=25, derandomize=True)  # float32 near ties may swap
@given(seed=st.integers(0, 2**32 - 1), variant=st.sampled_from(VARIANTS))
def test_permuting_the_images_permutes_the_labels(seed: int, variant: Variant) -> None:
    features = people(seed, noise=1.0)
    order = np.random.default_rng(seed).permutation(len(features))
    one = jaccard_distance(features, k1=6, k2=3, variant=variant)
    two = jaccard_distance(features[order], k1=6, k2=3, variant=variant)
    radius = clear_radius(one)
    labels = cluster_dbscan(one, radius, 4).labels
    permuted = np.empty_like(labels)
    permuted[order] = cluster_dbscan(two, radius, 4).labels
    near = dense(one) <= radius
    core = near.sum(axis=1) >= 4
    # Core images and outliers do not depend on the order but for the names of clusters; an image
    # on the border of two clusters goes to the first, so it may change sides with the order.
    names = dict(zip(labels[core], permuted[core], strict=True))
    assert len(set(names.values())) == len(names) == labels.max() + 1
    np.testing.assert_array_equal([names[k] for k in labels[core]], permuted[core])
    np.testing.assert_array_equal(labels == -1, permuted == -1)
    for i in np.flatnonzero(~core & (labels != -1)):
        assert permuted[i] in permuted[core & near[i]]


@settings(max_examples=25, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), variant=st.sampled_from(VARIANTS))
def test_an_isolated_image_changes_nobody_else(seed: int, variant: Variant) -> None:
    # Distances: the isolated image must be in nobody's list, so every image needs k1 others at less
    # than a right angle, which is what the isolated one is at; and, as the classic variant divides
    # by the distance of the farthest image, every image needs another one farther than that.
    # Labels: query expansion gives the isolated image (k2 - 1) / k2 of others' neighbors, which
    # brings it as near as 1 - s / (2 - s), s = (k2 - 1) / k2: 0.5 here. The radius is below that.
    features = np.pad(people(seed, count=8, each=8), [(0, 0), (0, 1)])
    product = features @ features.T
    assume(((product > 0).sum(axis=1) > 7).all())
    assume((product < 0).any(axis=1).all())
    isolated = np.eye(1, 9, 8, dtype=np.float32)
    place = seed % 65
    more = np.insert(features, place, isolated, axis=0)
    before = jaccard_distance(features, k1=6, k2=3, variant=variant)
    after = jaccard_distance(more, k1=6, k2=3, variant=variant)
    others = np.delete(np.arange(65), place)
    np.testing.assert_array_equal(dense(after)[np.ix_(others, others)], dense(before))
    assert (dense(after)[place, others] > 0.499).all()
    labels = cluster_dbscan(after, 0.45, 4).labels
    assert labels[place] == -1
    np.testing.assert_array_equal(labels[others], cluster_dbscan(before, 0.45, 4).labels)
    assert labels.max() > 0
