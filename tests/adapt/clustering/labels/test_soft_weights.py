"""Soft weights of DAAL: by hand, as properties, against a reference, pinned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.clustering.labels.soft_weights import (
    MIN_SQUARED_TO_CENTER,
    one_hot_weights,
    soft_weights,
    weight_figures,
)


def unit(rng: np.random.Generator, rows: int, dimensions: int = 5) -> np.ndarray:
    x = rng.normal(size=(rows, dimensions))
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def reference(feat, center, label, epsilon):  # type: ignore[no-untyped-def]
    """Equation (4), an image and a cluster at a time."""
    weight = np.zeros((len(feat), len(center)))
    for i, y in enumerate(label):
        for k in range(len(center)):
            if y == -1:
                continue
            difference = feat[i].astype(float) - center[k].astype(float)
            squared = max(sum(difference**2), MIN_SQUARED_TO_CENTER)
            weight[i, k] = 1 / (len(center) * squared)
            if k == y:
                weight[i, k] += epsilon
    return weight


def test_three_images_and_two_clusters_by_hand() -> None:
    # |(1,0) - (0.6,0.8)|^2 = 0.16 + 0.64 = 0.8; |(1,0) - (-1,0)|^2 = 4; K = 2
    feat = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    center = np.array([[0.6, 0.8], [-1, 0]], np.float32)
    found = soft_weights(feat, center, np.array([0, 1, -1]), epsilon=0.9)
    # |(0,1) - (0.6,0.8)|^2 = 0.36 + 0.04 = 0.4; |(0,1) - (-1,0)|^2 = 2
    expected = [[0.9 + 1 / 1.6, 1 / 8], [1 / 0.8, 0.9 + 1 / 4], [0.0, 0.0]]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.dtype == np.float32


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    clusters=st.integers(1, 7),
    epsilon=st.floats(0, 1),
)
def test_equals_the_reference(seed: int, clusters: int, epsilon: float) -> None:
    rng = np.random.default_rng(seed)
    feat, center = unit(rng, 6), unit(rng, clusters)
    label = rng.integers(-1, clusters, 6)
    found = soft_weights(feat, center, label, epsilon=epsilon)
    np.testing.assert_allclose(found, reference(feat, center, label, epsilon), rtol=2e-3)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_nearer_center_weighs_more_and_the_own_at_least_epsilon(seed: int) -> None:
    rng = np.random.default_rng(seed)
    feat, center = unit(rng, 1), unit(rng, 5)
    plain = soft_weights(feat, center, np.array([0]), epsilon=0.0)[0]
    own = soft_weights(feat, center, np.array([3]), epsilon=0.9)[0]
    order = np.argsort(((feat - center) ** 2).sum(1))
    assert (np.diff(plain[order]) <= 1e-6).all()
    assert own[3] >= 0.9
    np.testing.assert_allclose(own - plain, [0, 0, 0, 0.9, 0], atol=1e-5)


def test_normalized_weights_sum_to_one_and_keep_their_ratios() -> None:
    rng = np.random.default_rng(0)
    feat, center, label = unit(rng, 4), unit(rng, 3), np.array([0, 2, -1, 1])
    raw = soft_weights(feat, center, label, epsilon=0.9)
    scaled = soft_weights(feat, center, label, epsilon=0.9, normalize=True)
    np.testing.assert_allclose(scaled.sum(1), [1, 1, 0, 1], atol=1e-6)
    np.testing.assert_allclose(scaled[0] / scaled[0, 0], raw[0] / raw[0, 0], rtol=1e-5)


def test_an_image_on_its_center_has_a_finite_weight() -> None:
    center = np.array([[1, 0], [0, 1]], np.float32)
    weight = soft_weights(center, center, np.array([0, 1]), epsilon=0.9)
    assert weight[0, 0] == pytest.approx(0.9 + 1 / (2 * MIN_SQUARED_TO_CENTER))


def test_soft_labels_are_not_hard_ones() -> None:
    """Of unit length: 0.66 besides the 0.9 of the own cluster. What the gain over LSR needs."""
    rng = np.random.default_rng(1)
    center = unit(rng, 200, 64)
    label = np.arange(200)
    feat = center + 0.05 * rng.normal(size=center.shape)
    feat = (feat / np.linalg.norm(feat, axis=1, keepdims=True)).astype(np.float32)
    weight = soft_weights(feat, center, label, epsilon=0.9)
    share = weight[label, label] / weight.sum(1)
    assert 0.5 < share.mean() < 0.75
    assert 1.3 < weight.sum(1).mean() < 1.7


def test_one_hot_by_hand() -> None:
    label = np.array([1, -1, 0])
    assert one_hot_weights(label, 2).tolist() == [[0, 1], [0, 0], [1, 0]]
    lsr = one_hot_weights(label, 4, 0.2)
    np.testing.assert_allclose(lsr[0], [0.05, 0.85, 0.05, 0.05], atol=1e-7)
    assert not lsr[1].any()


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), smoothing=st.floats(0, 0.99))
def test_one_hot_equals_the_reference_and_sums_to_one(seed: int, smoothing: float) -> None:
    label = np.random.default_rng(seed).integers(-1, 5, 8)
    found = one_hot_weights(label, 5, smoothing)
    for row, y in zip(found, label, strict=True):
        expected = [(y >= 0) * ((1 - smoothing) * (k == y) + smoothing / 5) for k in range(5)]
        np.testing.assert_allclose(row, expected, atol=1e-6)
        assert row.sum() == pytest.approx(float(y >= 0), abs=1e-5)


def test_pinned_values() -> None:
    feat = np.sin(np.arange(6, dtype=np.float32)).reshape(3, 2)
    feat /= np.linalg.norm(feat, axis=1, keepdims=True)
    center = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    found = soft_weights(feat, center, np.array([0, 2, 1]), epsilon=0.5)
    np.testing.assert_allclose(found.sum(1), [334.83334, 15.371659, 0.779629], rtol=1e-4)
    lsr = one_hot_weights(np.array([0, 2, 1]), 3, 0.1)
    assert (lsr * np.arange(3)).sum(1).tolist() == pytest.approx([0.1, 1.9, 1.0], abs=1e-6)


def test_figures_by_hand() -> None:
    weight = np.array([[0.9, 0.3], [0, 0], [0.5, 1.5]], np.float32)
    found = weight_figures(weight, np.array([0, -1, 1]))
    assert found == pytest.approx({"weight_sum": 1.6, "own_share": 0.75})
    assert weight_figures(weight, np.full(3, -1)) == {}


def test_what_does_not_fit_is_refused() -> None:
    feat, center, label = np.ones((3, 2), np.float32), np.ones((2, 2), np.float32), np.zeros(3, int)
    with pytest.raises(ValueError, match="do not fit"):
        soft_weights(feat, center[:, :1], label, epsilon=0.9)
    with pytest.raises(ValueError, match="do not fit"):
        soft_weights(feat[:, 0], center, label, epsilon=0.9)
    with pytest.raises(ValueError, match="2 labels do not fit 3"):
        soft_weights(feat, center, label[:2], epsilon=0.9)
    with pytest.raises(ValueError, match="epsilon"):
        soft_weights(feat, center, label, epsilon=1.1)
    with pytest.raises(ValueError, match="below 2"):
        soft_weights(feat, center, label + 2, epsilon=0.9)
    with pytest.raises(ValueError, match="smoothing"):
        one_hot_weights(label, 2, 1.0)
