"""Pairwise distance: by hand, as a property, against a reference, pinned."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.losses.distance import pairwise_distance


def reference(feat: torch.Tensor) -> torch.Tensor:
    """The norm of every difference, one at a time."""
    rows = []
    for u in feat.double():
        rows.append(
            [
                max(
                    math.sqrt(sum((float(a) - float(b)) ** 2 for a, b in zip(u, v, strict=True))),
                    1e-6,
                )
                for v in feat.double()
            ]
        )
    return torch.tensor(rows)


def test_three_samples_by_hand() -> None:
    feat = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 4.0]])
    expected = torch.tensor([[1e-6, 5.0, 4.0], [5.0, 1e-6, 3.0], [4.0, 3.0, 1e-6]])
    torch.testing.assert_close(pairwise_distance(feat), expected)


def test_equals_the_reference() -> None:
    feat = torch.randn(12, 64, generator=torch.Generator().manual_seed(0)) * 3
    torch.testing.assert_close(pairwise_distance(feat), reference(feat), rtol=1e-4, atol=1e-5)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-3, 100))
def test_a_metric_that_ignores_translation(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    feat = torch.randn(6, 5, generator=generator, dtype=torch.float64) * scale
    shift = torch.randn(5, generator=generator, dtype=torch.float64) * scale
    dist = pairwise_distance(feat)
    torch.testing.assert_close(dist, dist.T)
    assert float(dist.min()) >= 1e-6 * (1 - 1e-9)
    through = dist[:, :, None] + dist[None, :, :]  # i -> j -> k
    assert bool((dist[:, None, :] <= through + 1e-9 * scale).all())
    torch.testing.assert_close(pairwise_distance(feat + shift), dist, rtol=1e-5, atol=1e-6 * scale)


def test_pinned_value() -> None:
    feat = torch.arange(6, dtype=torch.float64).reshape(3, 2).sin()
    assert float(pairwise_distance(feat).sum()) == pytest.approx(10.194457057, abs=1e-8)


def test_gradient_is_finite_at_distance_zero() -> None:
    feat = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 1.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(pairwise_distance(feat).sum(), feat)
    assert bool(gradient.isfinite().all())


def test_gradient_is_that_of_the_norm() -> None:
    generator = torch.Generator().manual_seed(1)
    feat = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pairwise_distance, (feat,))


def test_the_diagonal_is_exact_for_large_features() -> None:
    feat = torch.randn(8, 2048, generator=torch.Generator().manual_seed(2)) * 100
    assert torch.equal(pairwise_distance(feat).diagonal(), torch.full((8,), 1e-12).sqrt())


def test_half_precision_and_autocast_compute_in_float32() -> None:
    feat = torch.randn(6, 32, generator=torch.Generator().manual_seed(3))
    full = pairwise_distance(feat)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = pairwise_distance(feat)
    assert torch.equal(under_autocast, full)
    half = pairwise_distance(feat.bfloat16())
    assert half.dtype == torch.float32
    assert torch.equal(half, pairwise_distance(feat.bfloat16().float()))


@pytest.mark.parametrize(
    "feat", [torch.zeros(3), torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64)]
)
def test_wrong_shapes_are_refused(feat: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"\(B, D\)"):
        pairwise_distance(feat)
