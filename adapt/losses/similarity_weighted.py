"""Similarity-weighted losses: people whose images are unlike each other weigh more.

Shape suffixes: B images of the batch, D feature dimensions, K classes.
Notation: d_p, d_n distance of an anchor to its positive and its negative, s_p its similarity to
its positives.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from adapt.losses.triplet import HardTriplets


def positive_similarity(feat_BD: Tensor, label_B: Tensor) -> Tensor:
    """Average how similar each image is to the other images of its label in the batch.

        s_p(a) = 1/K+ sum_i cos(f(a), f(p_i)),    over the K+ images p_i != a of a's label

    Clamped to [0, 1]: it weights a distance. An image alone in its label has nothing to be unlike
    of and gets 1. Computed in at least float32, also under autocast.

    Args:
        feat_BD: (B, D) floating point, need not be normalized; a zero row is at cosine 0.
        label_B: (B,) integer labels.

    Returns:
        (B,) in [0, 1], with gradient; detach it to use it as a weight only.

    Raises:
        ValueError: shapes do not fit.

    Source: AML (Huang et al., 2021), equation 7.
    """
    if feat_BD.ndim != 2 or not feat_BD.is_floating_point() or label_B.shape != feat_BD.shape[:1]:
        raise ValueError(
            f"features {tuple(feat_BD.shape)} {feat_BD.dtype} and labels {tuple(label_B.shape)} "
            "must be floating point (B, D) and (B,)"
        )
    with torch.autocast(feat_BD.device.type, enabled=False):
        feat_BD = feat_BD.to(torch.promote_types(feat_BD.dtype, torch.float32))
        unit_BD = F.normalize(feat_BD, dim=1, eps=1e-12)
        positive_BB = (label_B[:, None] == label_B[None, :]).to(unit_BD.dtype)
        positive_BB.fill_diagonal_(0)
        count_B = positive_BB.sum(dim=1)
        similarity_B = (positive_BB * (unit_BD @ unit_BD.T)).sum(dim=1) / count_B.clamp(min=1)
        return torch.where(count_B > 0, similarity_B, torch.ones_like(similarity_B)).clamp(0, 1)


def weight_negatives(dist_BB: Tensor, triplets: HardTriplets, similarity_B: Tensor) -> Tensor:
    """Scale each anchor's distance to its negative by its similarity to its positives.

        d_n -> s_p d_n,    so that margin_triplet of the result is
        L_SWTri = 1/B sum max(0, d_p - s_p d_n + alpha)

    Args:
        dist_BB: (B, B) distances of one network, >= 0.
        triplets: mined on the same distances.
        similarity_B: (B,) s_p in [0, 1].

    Returns:
        (B, B): dist_BB, but for one entry in each row.

    Raises:
        ValueError: shapes do not fit.

    Source: AML (Huang et al., 2021), equation 6.
    """
    size = len(similarity_B)
    if dist_BB.shape != (size, size) or {triplets.negative.shape, similarity_B.shape} != {(size,)}:
        raise ValueError(
            f"distances {tuple(dist_BB.shape)}, triplets of {len(triplets.negative)} images and "
            f"similarities {tuple(similarity_B.shape)} must be of the same batch"
        )
    weight_BB = torch.ones_like(dist_BB)
    return dist_BB * weight_BB.scatter(1, triplets.negative[:, None], similarity_B[:, None])


def similarity_weighted_cross_entropy(
    logits_BK: Tensor, label_B: Tensor, similarity_B: Tensor, *, beta: float, smoothing: float
) -> Tensor:
    """Cross-entropy that weighs images more that are unlike their positives, batch average.

        L_SWID = 1/B sum_i L_ID(i) / max(beta, s_p(i))

    Args:
        logits_BK: (B, K) floating point, any range.
        label_B: (B,) int64 in 0..K-1.
        similarity_B: (B,) s_p in [0, 1].
        beta: in (0, 1]; no image weighs more than 1 / beta.
        smoothing: of the labels, see `adapt.losses.classification.cross_entropy`.

    Returns:
        Scalar, in nats; never below the unweighted cross-entropy.

    Raises:
        ValueError: shapes do not fit, or beta or smoothing is out of range.

    Source: AML (Huang et al., 2021), equation 8.
    """
    size = logits_BK.shape[:1]
    if logits_BK.ndim != 2 or label_B.shape != size or similarity_B.shape != size:
        raise ValueError(
            f"logits {tuple(logits_BK.shape)}, labels {tuple(label_B.shape)} and similarities "
            f"{tuple(similarity_B.shape)} must be (B, K), (B,) and (B,)"
        )
    if not 0 < beta <= 1 or not 0 <= smoothing < 1:
        raise ValueError(f"beta {beta} must be in (0, 1] and smoothing {smoothing} in [0, 1)")
    each_B = F.cross_entropy(logits_BK, label_B, label_smoothing=smoothing, reduction="none")
    return (each_B / similarity_B.clamp(min=beta)).mean()
