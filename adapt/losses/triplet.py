"""Triplet losses over the hardest triplets of a batch.

Shape suffixes: B images of the batch; every image is the anchor of one triplet.
Notation: d_ap distance of anchor and positive, d_an of anchor and negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.wording import plural


@dataclass(frozen=True)
class HardTriplets:
    """One triplet per image of a batch, as row indices of that batch.

    positive: (B,) int64, the farthest image of the anchor's label; the anchor itself where it is
        the only one.
    negative: (B,) int64, the nearest image of another label.
    """

    positive: Tensor
    negative: Tensor


def mine_hard_triplets(dist_BB: Tensor, label_B: Tensor) -> HardTriplets:
    """Find each image's farthest positive and nearest negative in the batch.

        p(i) = argmax_{j != i, y_j = y_i} d_ij,    n(i) = argmin_{y_j != y_i} d_ij

    Ties go to the lower index. An image alone in its label is its own positive, at the distance
    1e-6 that `pairwise_distance` has on its diagonal.

    Args:
        dist_BB: (B, B) distances.
        label_B: (B,) integer labels, at least two different ones.

    Returns:
        Indices without gradient.

    Raises:
        ValueError: shapes do not fit, or all labels are the same.

    Source: batch-hard mining of Hermans et al., "In defense of the triplet loss"
        (arXiv:1703.07737), as used in MMT (Ge et al., ICLR 2020), section 3.2.2.
    """
    if label_B.ndim != 1 or dist_BB.shape != (len(label_B), len(label_B)):
        raise ValueError(
            f"distances {tuple(dist_BB.shape)} and labels {tuple(label_B.shape)} must be (B, B) "
            "and (B,)"
        )
    same_BB = label_B[:, None] == label_B[None, :]
    if bool(same_BB.all()):
        raise ValueError(
            f"the batch ({plural(len(label_B), 'image')}) has one label, so there are no "
            "negatives: sample at least two identities per batch"
        )
    dist_BB = dist_BB.detach()
    self_BB = torch.eye(len(label_B), dtype=torch.bool, device=dist_BB.device)
    # On the diagonal -1, below any distance but above the -inf of other labels: last choice.
    positive_BB = dist_BB.masked_fill(self_BB, -1).masked_fill(~same_BB, -torch.inf)
    negative_BB = dist_BB.masked_fill(same_BB, torch.inf)
    return HardTriplets(positive_BB.argmax(dim=1), negative_BB.argmin(dim=1))


def softmax_triplet(dist_BB: Tensor, triplets: HardTriplets) -> Tensor:
    """Softmax-triplet loss with the hard label "the positive is nearer", averaged over the batch.

        L_tri = 1/B sum_i BCE(T_i, 1) = 1/B sum_i softplus(d_ap - d_an)
        T_i = exp(d_an) / (exp(d_ap) + exp(d_an))

    Args:
        dist_BB: (B, B) distances of one network, >= 0.
        triplets: mined on the same distances.

    Returns:
        Scalar >= 0, in nats.

    Raises:
        ValueError: distances and triplets do not fit.

    Source: MMT (Ge et al., ICLR 2020), equations 6 and 7.
    """
    positive_B, negative_B = _distances(dist_BB, triplets)
    return F.softplus(positive_B - negative_B).mean()


def soft_softmax_triplet(
    dist_BB: Tensor, teacher_dist_BB: Tensor, triplets: HardTriplets
) -> Tensor:
    """Softmax-triplet loss whose label is a teacher's confidence, averaged over the batch.

        L_stri = 1/B sum_i BCE(T_i, t_i)
               = 1/B sum_i t_i softplus(d_ap - d_an) + (1 - t_i) softplus(d_an - d_ap)
        t_i = T_i of the teacher, read at the student's triplets; no gradient reaches it

    Args:
        dist_BB: (B, B) distances of the network that learns, >= 0.
        teacher_dist_BB: (B, B) distances of its peer's temporal average, same images.
        triplets: mined on dist_BB.

    Returns:
        Scalar >= 0, in nats; least where T equals t.

    Raises:
        ValueError: distances and triplets do not fit.

    Source: MMT (Ge et al., ICLR 2020), equation 8; triplets as in the authors' code.
    """
    positive_B, negative_B = _distances(dist_BB, triplets)
    teacher_positive_B, teacher_negative_B = _distances(teacher_dist_BB.detach(), triplets)
    target_B = (teacher_negative_B - teacher_positive_B).sigmoid()
    gap_B = positive_B - negative_B
    return (target_B * F.softplus(gap_B) + (1 - target_B) * F.softplus(-gap_B)).mean()


def margin_triplet(dist_BB: Tensor, triplets: HardTriplets, margin: float) -> Tensor:
    """Triplet loss with a margin, averaged over the batch.

        L = 1/B sum_i max(0, d_ap + margin - d_an)

    Args:
        dist_BB: (B, B) distances of one network, >= 0.
        triplets: mined on the same distances.
        margin: >= 0, in units of distance.

    Returns:
        Scalar >= 0, in units of distance.

    Raises:
        ValueError: distances and triplets do not fit, or margin is negative.

    Source: MMT (Ge et al., ICLR 2020), equation 2 (there margin 0.5).
    """
    if margin < 0:
        raise ValueError(f"margin must be >= 0, got {margin}")
    positive_B, negative_B = _distances(dist_BB, triplets)
    return F.relu(positive_B + margin - negative_B).mean()


def active_share(dist_BB: Tensor, triplets: HardTriplets, margin: float) -> Tensor:
    """Share of a batch's triplets that `margin_triplet` still learns from.

        |{ i : d_ap + margin - d_an > 0 }| / B

    With margin 0 they are those whose positive is farther than their negative, to which the
    softmax-triplet gives a probability below one half; its gradient never ends.

    Args, errors: those of `margin_triplet`.

    Returns:
        Scalar in [0, 1] without gradient; 0 means that `margin_triplet` has none.
    """
    if margin < 0:
        raise ValueError(f"margin must be >= 0, got {margin}")
    positive_B, negative_B = _distances(dist_BB.detach(), triplets)
    return (positive_B + margin - negative_B > 0).float().mean()


def _distances(dist_BB: Tensor, triplets: HardTriplets) -> tuple[Tensor, Tensor]:
    """d_ap and d_an of every triplet, (B,) each."""
    size = len(triplets.positive)
    if dist_BB.shape != (size, size) or triplets.negative.shape != (size,):
        raise ValueError(
            f"distances {tuple(dist_BB.shape)} do not fit triplets of {size} images; mine them "
            "in the same batch"
        )
    positive_B = dist_BB.gather(1, triplets.positive[:, None]).squeeze(1)
    negative_B = dist_BB.gather(1, triplets.negative[:, None]).squeeze(1)
    return positive_B, negative_B
