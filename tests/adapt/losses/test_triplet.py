"""Mining and triplet losses: by hand, as properties, against references, pinned."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.losses.distance import pairwise_distance
from adapt.losses.triplet import (
    HardTriplets,
    margin_triplet,
    mine_hard_triplets,
    soft_softmax_triplet,
    softmax_triplet,
)

# Three points on a line, 0, 1 and 3; the first two show one person.
LINE = torch.tensor([[0.0], [1.0], [3.0]])
LINE_LABEL = torch.tensor([0, 0, 1])


def batch(seed: int, people: int = 3, each: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    feat = torch.randn(people * each, 5, generator=generator, dtype=torch.float64)
    return feat, torch.arange(people).repeat_interleave(each)


def reference_mining(dist: torch.Tensor, label: torch.Tensor) -> tuple[list[int], list[int]]:
    positive, negative = [], []
    for i in range(len(label)):
        mine = [j for j in range(len(label)) if j != i and label[j] == label[i]] or [i]
        others = [j for j in range(len(label)) if label[j] != label[i]]
        positive.append(max(mine, key=dist[i].tolist().__getitem__))
        negative.append(min(others, key=dist[i].tolist().__getitem__))
    return positive, negative


def reference_confidence(dist: torch.Tensor, triplets: HardTriplets) -> list[float]:
    """Equation 7 as printed."""
    confidence = []
    for i in range(len(dist)):
        positive = math.exp(float(dist[i, triplets.positive[i]]))
        negative = math.exp(float(dist[i, triplets.negative[i]]))
        confidence.append(negative / (positive + negative))
    return confidence


def reference_bce(confidence: list[float], target: list[float]) -> float:
    """Equations 6 and 8 as printed."""
    terms = [
        -t * math.log(c) - (1 - t) * math.log(1 - c)
        for c, t in zip(confidence, target, strict=True)
    ]
    return sum(terms) / len(terms)


def test_three_samples_by_hand() -> None:
    dist = pairwise_distance(LINE)
    triplets = mine_hard_triplets(dist, LINE_LABEL)
    assert triplets.positive.tolist() == [1, 0, 2]  # the third is alone: itself
    assert triplets.negative.tolist() == [2, 2, 1]
    # d_ap - d_an = 1 - 3, 1 - 2, 0 - 2
    hard = [math.log1p(math.exp(gap)) for gap in (-2, -1, -2)]
    assert float(softmax_triplet(dist, triplets)) == pytest.approx(sum(hard) / 3, abs=1e-6)
    assert float(margin_triplet(dist, triplets, 1.5)) == pytest.approx(0.5 / 3, abs=1e-6)
    # a teacher that sees the points at 0, 2, 2: read at the same triplets, d_an - d_ap = 0, -2, 0
    teacher = pairwise_distance(torch.tensor([[0.0], [2.0], [2.0]]))
    target = [0.5, 1 / (1 + math.exp(2)), 0.5]
    soft = [
        t * h + (1 - t) * (h - gap) for t, h, gap in zip(target, hard, (-2, -1, -2), strict=True)
    ]
    value = float(soft_softmax_triplet(dist, teacher, triplets))
    assert value == pytest.approx(sum(soft) / 3, abs=1e-5)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), people=st.integers(2, 4), each=st.integers(1, 4))
def test_equal_to_the_references(seed: int, people: int, each: int) -> None:
    feat, label = batch(seed, people, each)
    dist = pairwise_distance(feat)
    triplets = mine_hard_triplets(dist, label)
    assert (triplets.positive.tolist(), triplets.negative.tolist()) == reference_mining(dist, label)
    teacher = pairwise_distance(batch(seed ^ 1, people, each)[0])
    mine, target = reference_confidence(dist, triplets), reference_confidence(teacher, triplets)
    hard, soft = reference_bce(mine, [1.0] * len(mine)), reference_bce(mine, target)
    assert float(softmax_triplet(dist, triplets)) == pytest.approx(hard, rel=1e-9)
    assert float(soft_softmax_triplet(dist, teacher, triplets)) == pytest.approx(soft, rel=1e-9)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_soft_equals_hard_when_the_teacher_is_certain(seed: int) -> None:
    feat, label = batch(seed)
    dist = pairwise_distance(feat)
    triplets = mine_hard_triplets(dist, label)
    teacher = torch.where(label[:, None] == label[None, :], 0.0, 1e4).double()  # T is 1 exactly
    torch.testing.assert_close(
        soft_softmax_triplet(dist, teacher, triplets),
        softmax_triplet(dist, triplets),
        rtol=0,
        atol=0,
    )


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_soft_is_least_where_student_and_teacher_agree(seed: int) -> None:
    dist = pairwise_distance(batch(seed)[0])
    triplets = mine_hard_triplets(dist, batch(seed)[1])
    teacher = dist.clone()
    student = dist.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(soft_softmax_triplet(student, teacher, triplets), student)
    assert float(gradient.abs().max()) < 1e-12


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_losses_ignore_the_order_of_the_batch(seed: int) -> None:
    feat, label = batch(seed)
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(seed))
    for loss in (softmax_triplet, lambda d, t: margin_triplet(d, t, 0.5)):
        dist, shuffled = pairwise_distance(feat), pairwise_distance(feat[order])
        torch.testing.assert_close(
            loss(shuffled, mine_hard_triplets(shuffled, label[order])),
            loss(dist, mine_hard_triplets(dist, label)),
        )


def test_margin_equals_the_reference() -> None:
    feat, label = batch(5)
    dist = pairwise_distance(feat)
    triplets = mine_hard_triplets(dist, label)
    terms = [
        max(0.0, float(dist[i, p]) + 0.5 - float(dist[i, n]))
        for i, (p, n) in enumerate(zip(*reference_mining(dist, label), strict=True))
    ]
    value = float(margin_triplet(dist, triplets, 0.5))
    assert value == pytest.approx(sum(terms) / len(terms), rel=1e-12)
    assert 0 < value < max(terms)


def test_pinned_values() -> None:
    feat = torch.arange(12, dtype=torch.float64).reshape(6, 2).sin()
    label = torch.tensor([0, 0, 1, 1, 2, 2])
    dist = pairwise_distance(feat)
    teacher = pairwise_distance(feat.cos())
    triplets = mine_hard_triplets(dist, label)
    assert float(softmax_triplet(dist, triplets)) == pytest.approx(1.60313438, abs=1e-8)
    assert float(soft_softmax_triplet(dist, teacher, triplets)) == pytest.approx(
        0.81802025, abs=1e-8
    )
    assert float(margin_triplet(dist, triplets, 0.5)) == pytest.approx(1.86104163, abs=1e-8)


def test_a_copy_of_the_anchor_is_preferred_to_the_anchor() -> None:
    feat = torch.tensor([[0.0], [0.0], [1.0]])
    label = torch.tensor([4, 4, 9])
    for dist in (pairwise_distance(feat), torch.cdist(feat, feat)):  # copies at 1e-6, at 0
        assert mine_hard_triplets(dist, label).positive.tolist() == [1, 0, 2]


def test_mining_carries_no_gradient_and_losses_do() -> None:
    feat, label = batch(6)
    feat.requires_grad_()
    other = batch(7)[0].requires_grad_()
    dist, teacher = pairwise_distance(feat), pairwise_distance(other)
    triplets = mine_hard_triplets(dist, label)
    assert not triplets.positive.is_floating_point()
    loss = soft_softmax_triplet(dist, teacher, triplets)
    of_student, of_teacher = torch.autograd.grad(loss, (feat, other), allow_unused=True)
    assert of_teacher is None
    assert float(of_student.norm()) > 0


def test_gradient_is_finite_for_identical_images_and_singletons() -> None:
    feat = torch.zeros(4, 3, requires_grad=True)
    label = torch.tensor([0, 0, 1, 2])
    dist = pairwise_distance(feat)
    triplets = mine_hard_triplets(dist, label)
    loss = softmax_triplet(dist, triplets) + soft_softmax_triplet(dist, dist, triplets)
    (gradient,) = torch.autograd.grad(loss + margin_triplet(dist, triplets, 0.5), feat)
    assert bool(gradient.isfinite().all())


def test_far_apart_features_do_not_overflow() -> None:
    feat = torch.tensor([[0.0], [1e4], [1e-3]], requires_grad=True)
    dist = pairwise_distance(feat)
    triplets = mine_hard_triplets(dist, torch.tensor([0, 0, 1]))
    loss = softmax_triplet(dist, triplets)
    (gradient,) = torch.autograd.grad(loss, feat)
    assert bool(loss.isfinite())
    assert bool(gradient.isfinite().all())


def test_a_batch_of_one_identity_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two identities"):
        mine_hard_triplets(torch.zeros(3, 3), torch.tensor([5, 5, 5]))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, B\)"):
        mine_hard_triplets(torch.zeros(3, 2), torch.tensor([0, 1, 1]))
    triplets = HardTriplets(torch.tensor([1, 0, 2]), torch.tensor([2, 2, 1]))
    good, wrong = torch.zeros(3, 3), torch.zeros(4, 4)
    with pytest.raises(ValueError, match="do not fit"):
        softmax_triplet(wrong, triplets)
    with pytest.raises(ValueError, match="do not fit"):
        soft_softmax_triplet(good, wrong, triplets)
    with pytest.raises(ValueError, match="do not fit"):
        margin_triplet(wrong, triplets, 0.5)
    with pytest.raises(ValueError, match="margin"):
        margin_triplet(good, triplets, -0.1)
