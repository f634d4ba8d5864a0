"""Cross-entropy losses: by hand, as properties, against references, pinned."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.losses.classification import (
    cross_entropy,
    soft_cross_entropy,
    weighted_cross_entropy,
)

LN2, LN4 = math.log(2), math.log(4)


def reference_probabilities(row: torch.Tensor) -> list[float]:
    powers = [math.exp(float(z)) for z in row]
    return [p / sum(powers) for p in powers]


def reference_hard(logits: torch.Tensor, label: torch.Tensor, smoothing: float) -> float:
    """The equation, a sum over images and classes."""
    total = 0.0
    for row, y in zip(logits, label, strict=True):
        for k, p in enumerate(reference_probabilities(row)):
            q = (1 - smoothing) * (k == int(y)) + smoothing / len(row)
            total -= q * math.log(p)
    return total / len(logits)


def reference_soft(student: torch.Tensor, teacher: torch.Tensor) -> float:
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        pairs = zip(reference_probabilities(s), reference_probabilities(t), strict=True)
        total -= sum(q * math.log(p) for p, q in pairs)
    return total / len(student)


def logits(rows: int, classes: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, classes, generator=generator, dtype=torch.float64) * 2


def test_hard_on_three_samples_by_hand() -> None:
    # softmax of (ln 3, 0) is (3/4, 1/4).
    z = torch.tensor([[math.log(3), 0.0], [0.0, 0.0], [math.log(3), 0.0]])
    label = torch.tensor([0, 1, 1])
    expected = (-math.log(3 / 4) + LN2 + LN4) / 3
    assert float(cross_entropy(z, label, 0.0)) == pytest.approx(expected, abs=1e-6)
    # smoothing 0.2: the target of label 0 is (0.9, 0.1).
    first, last = -0.9 * math.log(3 / 4) + 0.1 * LN4, -0.1 * math.log(3 / 4) + 0.9 * LN4
    assert float(cross_entropy(z, label, 0.2)) == pytest.approx((first + LN2 + last) / 3, abs=1e-6)


def test_soft_on_three_samples_by_hand() -> None:
    student = torch.tensor([[math.log(3), 0.0], [0.0, 0.0], [math.log(3), 0.0]])
    teacher = torch.tensor([[0.0, 0.0], [7.0, -2.0], [math.log(3), 0.0]])
    first = (-math.log(3 / 4) + LN4) / 2
    last = -3 / 4 * math.log(3 / 4) + LN4 / 4
    expected = (first + LN2 + last) / 3
    assert float(soft_cross_entropy(student, teacher)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_hard_equals_the_reference(smoothing: float) -> None:
    z = logits(7, 5, 0)
    label = torch.arange(7) % 5
    expected = reference_hard(z, label, smoothing)
    assert float(cross_entropy(z, label, smoothing)) == pytest.approx(expected, rel=1e-12)


def test_soft_equals_the_reference() -> None:
    student, teacher = logits(7, 5, 1), logits(7, 5, 2)
    expected = reference_soft(student, teacher)
    assert float(soft_cross_entropy(student, teacher)) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 9))
def test_a_certain_teacher_gives_the_hard_loss(seed: int, classes: int) -> None:
    student = logits(5, classes, seed)
    label = torch.arange(5) % classes
    teacher = torch.nn.functional.one_hot(label, classes).double() * 1e4
    torch.testing.assert_close(
        soft_cross_entropy(student, teacher), cross_entropy(student, label, 0.0)
    )


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), shift=st.floats(-50, 50))
def test_soft_is_least_where_both_agree(seed: int, shift: float) -> None:
    student, teacher = logits(4, 6, seed), logits(4, 6, seed ^ 1)
    agreed = soft_cross_entropy(teacher, teacher)
    assert float(soft_cross_entropy(student, teacher)) >= float(agreed) - 1e-12
    # softmax does not see a shift of all logits
    torch.testing.assert_close(
        soft_cross_entropy(student + shift, teacher - shift), soft_cross_entropy(student, teacher)
    )


def test_pinned_values() -> None:
    z = torch.arange(12, dtype=torch.float64).reshape(3, 4).sin()
    t = torch.arange(12, dtype=torch.float64).reshape(3, 4).cos()
    assert float(cross_entropy(z, torch.tensor([0, 3, 1]), 0.1)) == pytest.approx(
        1.28962328466, abs=1e-9
    )
    assert float(soft_cross_entropy(z, t)) == pytest.approx(1.56350658677, abs=1e-9)


def test_no_gradient_reaches_the_teacher() -> None:
    student = logits(3, 4, 3).requires_grad_()
    teacher = logits(3, 4, 4).requires_grad_()
    loss = soft_cross_entropy(student, teacher)
    of_student, of_teacher = torch.autograd.grad(loss, (student, teacher), allow_unused=True)
    assert of_teacher is None
    # d/ds of the cross-entropy is (softmax(s) - softmax(t)) / B
    expected = (student.detach().softmax(1) - teacher.detach().softmax(1)) / 3
    torch.testing.assert_close(of_student, expected)


def test_extreme_logits_stay_finite() -> None:
    z = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    loss = cross_entropy(z, torch.tensor([1, 0]), 0.1) + soft_cross_entropy(z, -z)
    (gradient,) = torch.autograd.grad(loss, z)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize(
    ("shape", "label", "smoothing", "message"),
    [
        ((3,), torch.zeros(3, dtype=torch.int64), 0.0, r"\(B, K\)"),
        ((3, 2), torch.zeros(2, dtype=torch.int64), 0.0, r"\(B, K\)"),
        ((3, 2), torch.zeros(3, 2, dtype=torch.int64), 0.0, r"\(B, K\)"),
        ((3, 2), torch.zeros(3), 0.0, "integers"),
        ((3, 2), torch.zeros(3, dtype=torch.int64), 1.0, "smoothing"),
    ],
)
def test_hard_refuses_what_does_not_fit(
    shape: tuple[int, ...], label: torch.Tensor, smoothing: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cross_entropy(torch.zeros(shape), label, smoothing)


def test_soft_refuses_different_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(B, K\)"):
        soft_cross_entropy(torch.zeros(3, 2), torch.zeros(1, 2))


def reference_weighted(z: torch.Tensor, weight: torch.Tensor) -> float:
    total = 0.0
    for row, w in zip(z, weight, strict=True):
        for p, w_k in zip(reference_probabilities(row), w, strict=True):
            total -= float(w_k) * math.log(p)
    return total / len(z)


def test_weighted_on_three_samples_by_hand() -> None:
    z = torch.tensor([[math.log(3), 0.0], [0.0, 0.0], [5.0, -1.0]])
    weight = torch.tensor([[1.5, 0.25], [0.0, 1.0], [0.0, 0.0]])
    expected = (-1.5 * math.log(3 / 4) + 0.25 * LN4 + LN2) / 3
    assert float(weighted_cross_entropy(z, weight)) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.1, 5))
def test_weighted_equals_the_reference_and_grows_with_its_weights(seed: int, scale: float) -> None:
    z = logits(5, 4, seed)
    weight = logits(5, 4, seed ^ 1).abs()
    found = float(weighted_cross_entropy(z, weight))
    assert found == pytest.approx(reference_weighted(z, weight), rel=1e-9)
    assert float(weighted_cross_entropy(z, scale * weight)) == pytest.approx(scale * found)


def test_weighted_is_the_hard_and_the_soft_loss_where_the_weights_are_theirs() -> None:
    z, label = logits(6, 4, 2), torch.arange(6) % 4
    one_hot = torch.nn.functional.one_hot(label, 4).double()
    torch.testing.assert_close(weighted_cross_entropy(z, one_hot), cross_entropy(z, label, 0.0))
    smooth = 0.9 * one_hot + 0.1 / 4
    torch.testing.assert_close(weighted_cross_entropy(z, smooth), cross_entropy(z, label, 0.1))
    teacher = logits(6, 4, 3)
    torch.testing.assert_close(
        weighted_cross_entropy(z, teacher.softmax(1)), soft_cross_entropy(z, teacher)
    )


def test_weighted_pinned_and_gradient() -> None:
    z = torch.arange(12, dtype=torch.float64).reshape(3, 4).sin().requires_grad_()
    weight = torch.arange(12, dtype=torch.float64).reshape(3, 4).cos().square()
    loss = weighted_cross_entropy(z, weight)
    assert float(loss) == pytest.approx(3.19274530922, abs=1e-9)
    (gradient,) = torch.autograd.grad(loss, z)
    # d/dz of the weighted cross-entropy is (sum_k w_k softmax(z) - w) / B
    expected = (weight.sum(1, keepdim=True) * z.detach().softmax(1) - weight) / 3
    torch.testing.assert_close(gradient, expected)


def test_weighted_refuses_different_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(B, K\)"):
        weighted_cross_entropy(torch.zeros(3, 2), torch.zeros(3, 1))
