"""Spread and effective rank: by hand, properties, a slow reference, pinned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.evaluation.proxies.spread import effective_rank, spread
from tests.support.numbered_sites import people, unit


def test_by_hand() -> None:
    right_angle = unit([[1, 0], [0, 1]])
    # each is at cosine 1 with itself and 0 with the other
    assert spread(right_angle).part == pytest.approx([0.5, 0.5])
    assert effective_rank(right_angle).value == pytest.approx(2)
    # singular values sqrt(2) and 1
    three = unit([[1, 0], [1, 0], [0, 1]])
    assert spread(three).part == pytest.approx([1 / 3, 1 / 3, 2 / 3])
    p = np.array([np.sqrt(2), 1]) / (1 + np.sqrt(2))
    assert effective_rank(three).value == pytest.approx(np.exp(-(p * np.log(p)).sum()))


def test_all_alike() -> None:
    same = np.tile(unit([[3, 4]]), (5, 1))
    assert spread(same).value == pytest.approx(0, abs=1e-6)
    assert effective_rank(same).value == pytest.approx(1, abs=1e-3)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1), crops=st.integers(2, 30), dimension=st.sampled_from([3, 8, 40])
)
def test_equals_the_reference_and_stays_in_bounds(seed: int, crops: int, dimension: int) -> None:
    feature = unit(np.random.default_rng(seed).normal(size=(crops, dimension)) + 0.5)
    pairs = [1 - float(a @ b) for a in feature for b in feature]
    assert spread(feature).value == pytest.approx(np.mean(pairs), abs=1e-5)
    assert -1e-6 <= spread(feature).value <= 1
    values = np.linalg.svd(feature.astype(np.float64), compute_uv=False)
    p = values / values.sum()
    expected = float(np.exp(-sum(x * np.log(x) for x in p if x > 1e-9)))
    assert effective_rank(feature).value == pytest.approx(expected, rel=1e-4)
    assert 1 - 1e-6 <= effective_rank(feature).value <= min(crops, dimension) + 1e-6


def test_pinned() -> None:
    feature, _ = people(noise=1.0, shift=0.5)
    figures = (spread(feature).value, effective_rank(feature).value)
    assert figures == pytest.approx((0.9451, 23.1425), abs=1e-3)
    assert effective_rank(feature).part is None
