"""Mutual instance selection: by hand, as properties, against references, pinned."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.losses.distance import pairwise_distance
from adapt.losses.selection import (
    Triplets,
    disagree,
    mine_hardest,
    mine_pairs,
    peer_confident,
    relative_gap,
    selected_triplet,
    triplet_gap,
)

# Four points on a line, 0, 1, 4 and 6; the first three show one person.
LINE = torch.tensor([[0.0], [1.0], [4.0], [6.0]])
LINE_LABEL = torch.tensor([0, 0, 0, 1])


def features(seed: int, people: int = 3, each: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and their labels in no order."""
    generator = torch.Generator().manual_seed(seed)
    feat = torch.randn(people * each, 5, generator=generator, dtype=torch.float64)
    label = torch.arange(people).repeat_interleave(each)
    return feat, label[torch.randperm(len(label), generator=generator)]


def as_tuples(triplets: Triplets) -> list[tuple[int, int, int]]:
    columns = (triplets.anchor, triplets.positive, triplets.negative)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def reference_pairs(dist: torch.Tensor, label: torch.Tensor) -> list[tuple[int, int, int]]:
    found = []
    for i in range(len(label)):
        others = [n for n in range(len(label)) if label[n] != label[i]]
        nearest = min(others, key=lambda n: float(dist[i, n]))
        found += [(i, j, nearest) for j in range(i + 1, len(label)) if label[j] == label[i]]
    return found


def reference_hardest(dist: torch.Tensor, label: torch.Tensor) -> list[tuple[int, int, int]]:
    found = []
    for i in range(len(label)):
        mine = [j for j in range(len(label)) if j != i and label[j] == label[i]]
        others = [n for n in range(len(label)) if label[n] != label[i]]
        far = max(mine, key=lambda j: float(dist[i, j]))
        found.append((i, far, min(others, key=lambda n: float(dist[i, n]))))
    return found


def reference_kept(
    own: list[float], peer: list[float], confidence: float, disagreement: float
) -> list[bool]:
    """Equations 6 and 9 as printed, and what 12 calls easy taken out."""
    kept = []
    for f, g in zip(own, peer, strict=True):
        easy = f < g - disagreement  # then f < T_c, too
        kept.append(g < confidence and abs(f - g) > disagreement and not easy)
    return kept


# by hand --------------------------------------------------------------------------------------


def test_mining_four_points_by_hand() -> None:
    dist = pairwise_distance(LINE)
    pairs = mine_pairs(dist, LINE_LABEL)
    assert as_tuples(pairs) == [(0, 1, 3), (0, 2, 3), (1, 2, 3)]
    torch.testing.assert_close(triplet_gap(dist, pairs), torch.tensor([-5.0, -2.0, -2.0]))
    hardest = mine_hardest(dist, LINE_LABEL)
    assert as_tuples(hardest) == [(0, 2, 3), (1, 2, 3), (2, 0, 3), (3, 3, 2)]
    # the last point is alone: its own positive, at 1e-6
    torch.testing.assert_close(triplet_gap(dist, hardest), torch.tensor([-2.0, -2.0, 2.0, -2.0]))


def test_one_triplet_of_each_kind_by_hand() -> None:
    """Noisy; hard for the learner; as easy for both; easier for the learner (figure 2)."""
    own = torch.tensor([3.0, 0.9, 0.2, -0.6])
    peer = torch.tensor([1.0, 0.3, 0.0, 0.5])
    assert peer_confident(peer, 1.0).tolist() == [False, True, True, True]  # 1 < 1 is false
    assert disagree(own, peer, 0.5).tolist() == [True, True, False, False]
    kept = peer_confident(peer, 1.0) & disagree(own, peer, 0.5)
    assert float(selected_triplet(own, kept, 0.5)) == pytest.approx(1.4)
    # roles swapped: the fourth is what the other network learns from
    kept = peer_confident(own, 1.0) & disagree(peer, own, 0.5)
    assert kept.tolist() == [False, False, False, True]
    assert float(selected_triplet(peer, kept, 0.5)) == pytest.approx(1.0)


def test_loss_of_three_triplets_by_hand() -> None:
    gap = torch.tensor([0.5, -2.0, -0.25])
    everything = torch.tensor([True, True, True])
    assert float(selected_triplet(gap, everything, 0.5)) == pytest.approx((1.0 + 0 + 0.25) / 3)
    last_two = torch.tensor([False, True, True])
    assert float(selected_triplet(gap, last_two, 0.5)) == pytest.approx(0.25 / 2)


def test_relative_gap_by_hand() -> None:
    dist = torch.tensor([[0.0, 1.0, 3.0], [1.0, 0.0, 2.0], [3.0, 2.0, 0.0]])  # mean 2 off diagonal
    gap = torch.tensor([-2.0, 1.0])
    torch.testing.assert_close(relative_gap(gap, dist, 10.0), torch.tensor([-10.0, 5.0]))


# properties -----------------------------------------------------------------------------------


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), people=st.integers(2, 4), each=st.integers(2, 4))
def test_triplets_hold_each_pair_once_and_real_negatives(seed: int, people: int, each: int) -> None:
    feat, label = features(seed, people, each)
    triplets = mine_pairs(pairwise_distance(feat), label)
    assert len(triplets.anchor) == people * each * (each - 1) // 2
    assert len(set(as_tuples(triplets))) == len(triplets.anchor)
    assert torch.equal(label[triplets.anchor], label[triplets.positive])
    assert not (label[triplets.anchor] == label[triplets.negative]).any()


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-3, 1e3))
def test_relative_gaps_do_not_see_the_scale_of_a_network(seed: int, scale: float) -> None:
    feat, label = features(seed)
    dist, larger = pairwise_distance(feat), pairwise_distance(feat * scale)
    triplets = mine_pairs(dist, label)
    raw, scaled = triplet_gap(dist, triplets), triplet_gap(larger, triplets)
    torch.testing.assert_close(scaled, raw * scale, rtol=1e-5, atol=1e-5 * scale)
    torch.testing.assert_close(
        relative_gap(scaled, larger, 10.0), relative_gap(raw, dist, 10.0), rtol=1e-4, atol=1e-4
    )


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), confidence=st.floats(-1, 2), disagreement=st.floats(0, 2))
def test_no_triplet_is_kept_for_both_networks(
    seed: int, confidence: float, disagreement: float
) -> None:
    """Each learns from what the other one finds easier, never from itself."""
    f, g = torch.randn(2, 50, generator=torch.Generator().manual_seed(seed))
    for_f = peer_confident(g, confidence) & disagree(f, g, disagreement)
    for_g = peer_confident(f, confidence) & disagree(g, f, disagreement)
    assert not (for_f & for_g).any()
    assert not disagree(f, f, disagreement).any()


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_wider_threshold_never_drops_a_triplet(seed: int) -> None:
    f, g = torch.randn(2, 50, generator=torch.Generator().manual_seed(seed))
    assert (peer_confident(g, 0.5) <= peer_confident(g, 1.0)).all()
    assert (disagree(f, g, 0.7) <= disagree(f, g, 0.3)).all()


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
def test_dropped_triplets_get_no_gradient_and_kept_ones_a_mean(seed: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    gap = torch.randn(20, generator=generator, dtype=torch.float64).requires_grad_()
    kept = torch.rand(20, generator=generator) < share
    (gradient,) = torch.autograd.grad(selected_triplet(gap, kept, 0.5), gap)
    active = kept & (gap > -0.5)
    assert not gradient[~active].any()
    torch.testing.assert_close(
        gradient[active].sum(), active.sum() / kept.sum().clamp(min=1).double()
    )


# references -----------------------------------------------------------------------------------


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), people=st.integers(2, 4), each=st.integers(2, 4))
def test_equal_to_the_references(seed: int, people: int, each: int) -> None:
    feat, label = features(seed, people, each)
    other = features(seed ^ 1, people, each)[0]
    dist, peer = pairwise_distance(feat), pairwise_distance(other)
    assert as_tuples(mine_hardest(dist, label)) == reference_hardest(dist, label)
    triplets = mine_pairs(dist, label)
    found = reference_pairs(dist, label)
    assert as_tuples(triplets) == found

    def gaps(points: torch.Tensor) -> list[float]:
        return [
            float((points[i] - points[p]).norm() - (points[i] - points[n]).norm())
            for i, p, n in found
        ]

    own_gap, peer_gap = triplet_gap(dist, triplets), triplet_gap(peer, triplets)
    assert own_gap.tolist() == pytest.approx(gaps(feat), abs=1e-5)
    assert peer_gap.tolist() == pytest.approx(gaps(other), abs=1e-5)
    pairs = [float(dist[i, j]) for i in range(len(dist)) for j in range(len(dist)) if i != j]
    expected = [value * 10 / (sum(pairs) / len(pairs)) for value in own_gap.tolist()]
    assert relative_gap(own_gap, dist, 10.0).tolist() == pytest.approx(expected)
    kept = peer_confident(peer_gap, 1.0) & disagree(own_gap, peer_gap, 0.5)
    assert kept.tolist() == reference_kept(own_gap.tolist(), peer_gap.tolist(), 1.0, 0.5)
    terms = [max(0.0, value + 0.5) for value, k in zip(own_gap.tolist(), kept, strict=True) if k]
    mean = sum(terms) / len(terms) if terms else 0.0
    assert float(selected_triplet(own_gap, kept, 0.5)) == pytest.approx(mean)


# pinned and odd -------------------------------------------------------------------------------


def test_pinned_values() -> None:
    feat = torch.arange(12, dtype=torch.float64).reshape(6, 2).sin()
    label = torch.tensor([0, 0, 1, 1, 2, 2])
    dist, peer_dist = pairwise_distance(feat), pairwise_distance(feat.cos())
    triplets = mine_pairs(dist, label)
    gap, peer = triplet_gap(dist, triplets), triplet_gap(peer_dist, triplets)
    expected = [0.8129181032, 1.4682449729, 1.8019618256]
    assert gap.tolist() == pytest.approx(expected, abs=1e-8)
    expected = [5.7973574481, 10.4708468115, 12.8507616813]
    assert relative_gap(gap, dist, 10.0).tolist() == pytest.approx(expected, abs=1e-8)
    kept = peer_confident(peer, 0.38) & disagree(gap, peer, 0.5)
    assert kept.tolist() == [False, True, False]
    kept = peer_confident(peer, 1.0) & disagree(gap, peer, 0.5)
    assert float(selected_triplet(gap, kept, 0.5)) == pytest.approx(2.1351033992, abs=1e-8)


def test_nothing_kept_is_a_loss_of_0_that_can_be_differentiated() -> None:
    feat = features(3)[0].requires_grad_()
    label = features(3)[1]
    dist = pairwise_distance(feat)
    gap = triplet_gap(dist, mine_pairs(dist, label))
    loss = selected_triplet(gap, torch.zeros_like(gap, dtype=torch.bool), 0.5)
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, feat)
    assert torch.equal(gradient, torch.zeros_like(feat))


def test_mining_carries_no_gradient_and_gaps_do() -> None:
    feat, label = features(4)
    feat.requires_grad_()
    dist = pairwise_distance(feat)
    triplets = mine_pairs(dist, label)
    assert not triplets.negative.is_floating_point()
    (gradient,) = torch.autograd.grad(triplet_gap(dist, triplets).sum(), feat)
    assert float(gradient.norm()) > 0


def test_images_at_one_place_have_finite_gradients() -> None:
    feat = torch.zeros(4, 3, requires_grad=True)
    label = torch.tensor([0, 0, 1, 1])
    dist = pairwise_distance(feat)
    gap = triplet_gap(dist, mine_pairs(dist, label))
    (gradient,) = torch.autograd.grad(
        selected_triplet(gap, torch.ones_like(gap, dtype=torch.bool), 0.5), feat, retain_graph=True
    )
    assert bool(gradient.isfinite().all())
    assert bool(relative_gap(gap.detach(), dist.detach(), 10.0).isfinite().all())


def test_what_does_not_fit_is_refused() -> None:
    gap, kept = torch.zeros(3), torch.ones(3, dtype=torch.bool)
    with pytest.raises(ValueError, match="at least two identities"):
        mine_pairs(torch.zeros(3, 3), torch.tensor([5, 5, 5]))
    with pytest.raises(ValueError, match=r"\(B, B\)"):
        mine_pairs(torch.zeros(3, 2), torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match=r"\(B, B\)"):
        triplet_gap(torch.zeros(3, 2), Triplets(gap.long(), gap.long(), gap.long()))
    with pytest.raises(ValueError, match=r"\(T,\)"):
        relative_gap(torch.zeros(2, 2), torch.ones(3, 3), 10.0)
    with pytest.raises(ValueError, match="reference"):
        relative_gap(gap, torch.ones(3, 3), 0.0)
    with pytest.raises(ValueError, match=r"\(T,\)"):
        peer_confident(torch.zeros(2, 2), 1.0)
    with pytest.raises(ValueError, match=r"\(T,\)"):
        disagree(gap, torch.zeros(2), 0.5)
    with pytest.raises(ValueError, match="threshold"):
        disagree(gap, gap, -0.1)
    with pytest.raises(ValueError, match="bool"):
        selected_triplet(gap, gap, 0.5)
    with pytest.raises(ValueError, match="must both"):
        selected_triplet(gap, kept[:2], 0.5)
    with pytest.raises(ValueError, match="margin"):
        selected_triplet(gap, kept, -0.5)
