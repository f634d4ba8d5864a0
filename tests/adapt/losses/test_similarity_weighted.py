"""Similarity-weighted losses: by hand, as properties, against references, pinned."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.losses.classification import cross_entropy
from adapt.losses.distance import pairwise_distance
from adapt.losses.similarity_weighted import (
    positive_similarity,
    similarity_weighted_cross_entropy,
    weight_negatives,
)
from adapt.losses.triplet import HardTriplets, active_share, margin_triplet, mine_hard_triplets

# Two images of one person at 60 degrees, and one image of another at a right angle to the first.
FEAT = torch.tensor([[2.0, 0.0], [1.0, math.sqrt(3)], [0.0, 3.0]])
LABEL = torch.tensor([0, 0, 1])


def batch(seed: int, people: int = 3, each: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    feat = torch.randn(people * each, 5, generator=generator, dtype=torch.float64)
    return feat, torch.arange(people).repeat_interleave(each)


def reference_similarity(feat: torch.Tensor, label: torch.Tensor) -> list[float]:
    """Equation 7, one pair at a time, clamped."""
    found = []
    for a in range(len(label)):
        cosines = []
        for p in range(len(label)):
            if p != a and label[p] == label[a]:
                dot = sum(float(x) * float(y) for x, y in zip(feat[a], feat[p], strict=True))
                norms = [math.sqrt(sum(float(x) ** 2 for x in feat[i])) for i in (a, p)]
                cosines.append(dot / (norms[0] * norms[1]))
        mean = sum(cosines) / len(cosines) if cosines else 1.0
        found.append(min(max(mean, 0.0), 1.0))
    return found


def test_similarity_by_hand() -> None:
    # cos 60 degrees; the third is alone
    assert positive_similarity(FEAT, LABEL).tolist() == pytest.approx([0.5, 0.5, 1.0])
    # the mean over two positives, at 60 and at 90 degrees; the pair of those is at 30
    together = positive_similarity(FEAT, torch.zeros(3, dtype=torch.int64))
    cos30 = math.sqrt(3) / 2
    assert together.tolist() == pytest.approx([0.25, (0.5 + cos30) / 2, cos30 / 2])


def test_weighted_losses_by_hand() -> None:
    dist = pairwise_distance(FEAT)
    hard = mine_hard_triplets(dist, LABEL)
    similarity = positive_similarity(FEAT, LABEL)
    weighted = weight_negatives(dist, hard, similarity)
    d01, d02, d12 = 2.0, math.sqrt(13), math.sqrt(1 + (3 - math.sqrt(3)) ** 2)
    # nearest of the other person: image 2 of both, and image 1 of the third, which is alone
    expected = [d01 - 0.5 * d02 + 0.3, d01 - 0.5 * d12 + 0.3, 0.3 - d12]
    assert expected[2] < 0 < min(expected[:2])
    assert float(margin_triplet(weighted, hard, 0.3)) == pytest.approx(sum(expected[:2]) / 3)
    assert float(active_share(weighted, hard, 0.3)) == pytest.approx(2 / 3)
    # of the unweighted the first has d_p + margin < d_n already
    assert float(active_share(dist, hard, 0.3)) == pytest.approx(1 / 3)
    # ln 2, ln 2 and ln 4 over max(0.7, s_p) = 0.7, 0.7 and 1
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [math.log(3), 0.0]])
    found = similarity_weighted_cross_entropy(logits, LABEL, similarity, beta=0.7, smoothing=0.0)
    assert float(found) == pytest.approx((2 * math.log(2) / 0.7 + math.log(4)) / 3)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), people=st.integers(2, 4), each=st.integers(1, 4))
def test_equal_to_the_references(seed: int, people: int, each: int) -> None:
    feat, label = batch(seed, people, each)
    dist = pairwise_distance(feat)
    hard = mine_hard_triplets(dist, label)
    s = reference_similarity(feat, label)
    similarity = positive_similarity(feat, label)
    assert similarity.tolist() == pytest.approx(s, abs=1e-12)
    logits = feat[:, :people]
    tri = ident = 0.0
    for i in range(len(label)):
        d_p, d_n = (float(dist[i, t[i]]) for t in (hard.positive, hard.negative))
        tri += max(0.0, d_p - s[i] * d_n + 0.3) / len(label)
        one = float(cross_entropy(logits[i : i + 1], label[i : i + 1], 0.1))
        ident += one / max(0.7, s[i]) / len(label)
    weighted = margin_triplet(weight_negatives(dist, hard, similarity), hard, 0.3)
    assert float(weighted) == pytest.approx(tri, rel=1e-9, abs=1e-12)
    found = similarity_weighted_cross_entropy(logits, label, similarity, beta=0.7, smoothing=0.1)
    assert float(found) == pytest.approx(ident, rel=1e-9)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), margin=st.floats(0, 2), beta=st.floats(0.1, 1))
def test_weights_only_ever_add(seed: int, margin: float, beta: float) -> None:
    """s_p <= 1: no loss gets smaller, no triplet falls silent, and 1 everywhere changes nothing."""
    feat, label = batch(seed)
    dist = pairwise_distance(feat)
    hard = mine_hard_triplets(dist, label)
    similarity = positive_similarity(feat, label)
    assert float(similarity.min()) >= 0
    assert float(similarity.max()) <= 1
    weighted = weight_negatives(dist, hard, similarity)
    plain = margin_triplet(dist, hard, margin)
    assert float(margin_triplet(weighted, hard, margin)) >= float(plain)
    assert active_share(weighted, hard, margin) >= active_share(dist, hard, margin)
    logits = feat[:, :3]
    ident = cross_entropy(logits, label, 0.1)
    found = similarity_weighted_cross_entropy(logits, label, similarity, beta=beta, smoothing=0.1)
    assert float(ident) <= float(found) + 1e-12 <= float(ident) / beta + 1e-9
    one = torch.ones_like(similarity)
    assert torch.equal(weight_negatives(dist, hard, one), dist)
    same = similarity_weighted_cross_entropy(logits, label, one, beta=beta, smoothing=0.1)
    torch.testing.assert_close(same, ident)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-3, 1e3))
def test_similarity_ignores_length_and_order(seed: int, scale: float) -> None:
    feat, label = batch(seed)
    similarity = positive_similarity(feat, label)
    torch.testing.assert_close(positive_similarity(feat * scale, label), similarity)
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(positive_similarity(feat[order], label[order]), similarity[order])


def test_unlike_positives_keep_a_triplet_alive() -> None:
    """The paper's figure 3: d_p <= d_n - alpha silences (5), however far the positive is."""
    feat = torch.tensor([[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]], requires_grad=True)
    dist = pairwise_distance(feat)
    hard = mine_hard_triplets(dist, LABEL)
    (silent,) = torch.autograd.grad(margin_triplet(dist, hard, 0.3), feat, retain_graph=True)
    assert not silent.any()
    similarity = positive_similarity(feat, LABEL).detach()
    assert similarity.tolist() == [0, 0, 1]
    alive = margin_triplet(weight_negatives(dist, hard, similarity), hard, 0.3)
    (gradient,) = torch.autograd.grad(alive, feat)
    # descending draws the two positives together, along (1, -1)
    assert gradient[0, 0] > 0 > gradient[0, 1]
    assert gradient[1, 1] > 0 > gradient[1, 0]


def test_gradient_through_the_similarity_is_that_of_the_mean_cosine() -> None:
    feat, label = batch(3)
    feat = feat.abs().requires_grad_()  # cosines inside the clamp

    def mean(x: torch.Tensor) -> torch.Tensor:
        return positive_similarity(x, label)

    assert torch.autograd.gradcheck(mean, (feat,))


def test_pinned_values() -> None:
    feat = torch.arange(12, dtype=torch.float64).reshape(6, 2).sin() + 1
    label = torch.tensor([0, 0, 1, 1, 2, 2])
    dist = pairwise_distance(feat)
    hard = mine_hard_triplets(dist, label)
    similarity = positive_similarity(feat, label)
    pairs = [0.8604681803, 0.5459526979, 0.815458465]
    assert similarity.tolist() == pytest.approx([s for s in pairs for _ in "ab"], abs=1e-9)
    tri = margin_triplet(weight_negatives(dist, hard, similarity), hard, 0.3)
    assert float(tri) == pytest.approx(1.7324929535, abs=1e-9)
    logits = torch.cat([feat, feat[:, :1].cos()], dim=1)
    found = similarity_weighted_cross_entropy(logits, label, similarity, beta=0.9, smoothing=0.1)
    assert float(found) == pytest.approx(1.4078138781, abs=1e-9)


def test_zero_features_and_half_precision_stay_finite() -> None:
    zero = torch.zeros(4, 3, requires_grad=True)
    label = torch.tensor([0, 0, 1, 2])
    similarity = positive_similarity(zero, label)
    assert similarity.tolist() == [0, 0, 1, 1]
    (gradient,) = torch.autograd.grad(similarity.sum(), zero)
    assert bool(gradient.isfinite().all())
    feat = batch(4)[0].float()
    full = positive_similarity(feat, batch(4)[1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(positive_similarity(feat, batch(4)[1]), full)
    assert positive_similarity(feat.bfloat16(), batch(4)[1]).dtype == torch.float32


def test_what_does_not_fit_is_refused() -> None:
    dist, one = torch.zeros(3, 3), torch.ones(3)
    hard = HardTriplets(torch.tensor([1, 0, 2]), torch.tensor([2, 2, 1]))
    for feat, label in ((torch.zeros(3), LABEL), (FEAT.long(), LABEL), (FEAT, LABEL[:2])):
        with pytest.raises(ValueError, match=r"\(B, D\) and \(B,\)"):
            positive_similarity(feat, label)
    for wrong in ((torch.zeros(4, 4), one), (dist, torch.ones(4)), (dist, torch.ones(3, 1))):
        with pytest.raises(ValueError, match="of the same batch"):
            weight_negatives(wrong[0], hard, wrong[1])
    with pytest.raises(ValueError, match=r"\(B, K\), \(B,\) and \(B,\)"):
        similarity_weighted_cross_entropy(FEAT, LABEL, torch.ones(2), beta=0.7, smoothing=0.1)
    for beta, smoothing in ((0.0, 0.1), (1.1, 0.1), (0.7, 1.0)):
        with pytest.raises(ValueError, match="must be in"):
            similarity_weighted_cross_entropy(FEAT, LABEL, one, beta=beta, smoothing=smoothing)
    with pytest.raises(ValueError, match="margin"):
        active_share(dist, hard, -0.1)
