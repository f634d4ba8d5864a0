"""Triplets of a batch as two networks see them, and which of them are worth learning from.

Shape suffixes: B images of the batch, T triplets.
Notation: D(x, x_p, x_n; h) = d(x, x_p) - d(x, x_n) under network h, here `gap_T`. The triplets are
the same for both networks: rows of one batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from adapt.losses.triplet import mine_hard_triplets


@dataclass(frozen=True)
class Triplets:
    """T triplets (x, x_p, x_n) as row indices of a batch.

    anchor, positive, negative: (T,) int64.
    """

    anchor: Tensor
    positive: Tensor
    negative: Tensor


def mine_hardest(dist_BB: Tensor, label_B: Tensor) -> Triplets:
    """Take one triplet per image: its farthest positive and its nearest negative.

    See `adapt.losses.triplet.mine_hard_triplets`, also for what it raises. T = B.
    """
    hard = mine_hard_triplets(dist_BB, label_B)
    anchor_B = torch.arange(len(label_B), device=label_B.device)
    return Triplets(anchor_B, hard.positive, hard.negative)


def mine_pairs(dist_BB: Tensor, label_B: Tensor) -> Triplets:
    """Take one triplet per pair of images with one label: the pair and its nearest negative.

        { (i, j, argmin_{y_n != y_i} d_in) : i < j, y_i = y_j }

    Ties go to the lower index. P identities of S images each give T = P S (S - 1) / 2.

    Args:
        dist_BB: (B, B) distances.
        label_B: (B,) integer labels, at least two different ones.

    Returns:
        Indices without gradient, ordered by anchor, then positive; none where no label repeats.

    Raises:
        ValueError: shapes do not fit, or all labels are the same.

    Source: Hermans et al. (arXiv:1703.07737), sampled as in the public code of UDAP (Song et al.,
        arXiv:1807.11334), whose constants NRMT shares.
    """
    nearest_B = mine_hard_triplets(dist_BB, label_B).negative
    same_BB = label_B[:, None] == label_B[None, :]
    anchor_T, positive_T = same_BB.triu(diagonal=1).nonzero(as_tuple=True)
    return Triplets(anchor_T, positive_T, nearest_B[anchor_T])


def triplet_gap(dist_BB: Tensor, triplets: Triplets) -> Tensor:
    """Read how a network relates the images of each triplet.

        D(x, x_p, x_n; h) = ||h(x) - h(x_p)|| - ||h(x) - h(x_n)||

    Args:
        dist_BB: (B, B) distances under h, >= 0.
        triplets: of the same batch.

    Returns:
        gap_T: (T,), in units of distance; the smaller, the surer h is that the labels are right.

    Raises:
        ValueError: dist_BB is not square.

    Source: NRMT (Zhao et al., ECCV 2020), equations 4 and 5.
    """
    if dist_BB.ndim != 2 or dist_BB.shape[0] != dist_BB.shape[1]:
        raise ValueError(f"distances {tuple(dist_BB.shape)} must be (B, B)")
    anchor_T = triplets.anchor
    return dist_BB[anchor_T, triplets.positive] - dist_BB[anchor_T, triplets.negative]


def relative_gap(gap_T: Tensor, dist_BB: Tensor, reference: float) -> Tensor:
    """Express gaps on a scale of which the thresholds do not depend on the network.

        D'(.; h) = D(.; h) * reference / mean_{i != j} d_ij

    A network whose distances are all c times as large gives the same D'.

    Args:
        gap_T: (T,) gaps under h.
        dist_BB: (B, B) distances of the same batch under h, not all 0; B >= 2.
        reference: > 0, the mean distance at which thresholds hold as they are.

    Returns:
        (T,), in units of the reference.

    Raises:
        ValueError: shapes do not fit, or reference is not positive.

    Source: ours; NRMT compares raw distances.
    """
    size = len(dist_BB)
    if gap_T.ndim != 1 or dist_BB.shape != (size, size) or size < 2:
        raise ValueError(
            f"gaps {tuple(gap_T.shape)} and distances {tuple(dist_BB.shape)} must be (T,) and "
            "(B, B) with B >= 2"
        )
    if not reference > 0:
        raise ValueError(f"reference must be > 0, got {reference}")
    off_diagonal = dist_BB.sum() - dist_BB.diagonal().sum()
    return gap_T * (reference * size * (size - 1) / off_diagonal)


def peer_confident(peer_gap_T: Tensor, threshold: float) -> Tensor:
    """Tell the triplets whose labels the peer confirms.

        D(x, x_p, x_n; peer) < T_c

    Args:
        peer_gap_T: (T,) gaps under the peer of the network that learns.
        threshold: T_c, in units of the gaps.

    Returns:
        (T,) bool.

    Raises:
        ValueError: peer_gap_T is not a vector.

    Source: NRMT (Zhao et al., ECCV 2020), equations 6 and 7 (where the second repeats x_n for x_p).
    """
    if peer_gap_T.ndim != 1:
        raise ValueError(f"gaps {tuple(peer_gap_T.shape)} must be (T,)")
    return peer_gap_T < threshold


def disagree(gap_T: Tensor, peer_gap_T: Tensor, threshold: float) -> Tensor:
    """Tell the triplets that the learning network finds harder than its peer does.

        I(x, x_p, x_n; f, g) = D(x, x_p, x_n; f) - D(x, x_p, x_n; g) > T_d

    The other half of |I| > T_d (equation 9) are triplets that are easy for f where g is confident
    (equations 12 and 13): nothing to learn.

    Args:
        gap_T: (T,) gaps under the network that learns.
        peer_gap_T: (T,) gaps of the same triplets under its peer.
        threshold: T_d >= 0, in units of the gaps.

    Returns:
        (T,) bool.

    Raises:
        ValueError: shapes differ or are not (T,), or threshold is negative.

    Source: NRMT (Zhao et al., ECCV 2020), equations 8, 10 and 11.
    """
    if gap_T.ndim != 1 or gap_T.shape != peer_gap_T.shape:
        raise ValueError(
            f"gaps {tuple(gap_T.shape)} and the peer's {tuple(peer_gap_T.shape)} must both be (T,)"
        )
    if threshold < 0:
        raise ValueError(f"threshold must be >= 0, got {threshold}")
    return gap_T - peer_gap_T > threshold


def selected_triplet(gap_T: Tensor, kept_T: Tensor, margin: float) -> Tensor:
    """Triplet loss with a margin, averaged over the triplets that are kept.

        L_tri = 1/|M| sum_{t in M} max(0, D_t + m)

    Args:
        gap_T: (T,) gaps under the network that learns.
        kept_T: (T,) bool, M.
        margin: m >= 0, in units of distance.

    Returns:
        Scalar >= 0, in units of distance; 0 with a gradient of 0 where nothing is kept.

    Raises:
        ValueError: shapes do not fit, kept_T is not bool, or margin is negative.

    Source: NRMT (Zhao et al., ECCV 2020), L_tri of equations 2 and 3.
    """
    if gap_T.ndim != 1 or kept_T.shape != gap_T.shape or kept_T.dtype != torch.bool:
        raise ValueError(
            f"gaps {tuple(gap_T.shape)} and kept {tuple(kept_T.shape)} {kept_T.dtype} must both be "
            "(T,), kept bool"
        )
    if margin < 0:
        raise ValueError(f"margin must be >= 0, got {margin}")
    return F.relu(gap_T[kept_T] + margin).sum() / kept_T.sum().clamp(min=1)
