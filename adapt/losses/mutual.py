"""The four terms of mutual mean-teaching, of one student and the teacher it listens to.

Shape suffixes: B images of the batch.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from adapt.losses.classification import cross_entropy, soft_cross_entropy
from adapt.losses.distance import pairwise_distance
from adapt.losses.triplet import (
    active_share,
    mine_hard_triplets,
    soft_softmax_triplet,
    softmax_triplet,
)
from models.backbones.net import NetOutput


class MutualTerms(NamedTuple):
    """Scalars of one student: by its cluster (`id`, `tri`) and by its teacher (`soft_*`)."""

    id: Tensor
    soft_id: Tensor
    tri: Tensor
    soft_tri: Tensor


def mutual_terms(
    student: NetOutput, teacher: NetOutput, label_B: Tensor, smoothing: float
) -> MutualTerms:
    """Hard and soft, identity and triplet loss of one student.

        L_id  of the student's logits and the labels,   L_sid  of both networks' logits
        L_tri of the student's pooled features,         L_stri of both networks' pooled features

    Triplets are mined on the student's distances; no gradient reaches the teacher.

    Args:
        student: of the network that learns.
        teacher: of a temporal average, for the same images (in whatever view).
        label_B: (B,) int64 cluster of each image.
        smoothing: of the hard identity loss, in [0, 1).

    Returns:
        Four scalars, in nats.

    Raises:
        ValueError: a network has no classifier, or shapes do not fit.

    Source: MMT (Ge et al., ICLR 2020), equations 1, 5, 6 and 8.
    """
    if student.logits is None or teacher.logits is None:
        raise ValueError("student and teacher need classifiers: relabel before the first step")
    dist_BB = pairwise_distance(student.pooled)
    triplets = mine_hard_triplets(dist_BB, label_B)
    return MutualTerms(
        id=cross_entropy(student.logits, label_B, smoothing),
        soft_id=soft_cross_entropy(student.logits, teacher.logits),
        tri=softmax_triplet(dist_BB, triplets),
        soft_tri=soft_softmax_triplet(dist_BB, pairwise_distance(teacher.pooled), triplets),
    )


def active_triplets(student: NetOutput, label_B: Tensor) -> Tensor:
    """Share of the student's hardest triplets whose positive is farther than their negative.

        |{ i : d_ap > d_an }| / B,    where T_i of equation 7 is below one half

    Args:
        student: of the network that learns.
        label_B: (B,) int64 cluster of each image.

    Returns:
        Scalar in [0, 1] without gradient, for the log.

    Raises:
        ValueError: shapes do not fit.
    """
    dist_BB = pairwise_distance(student.pooled.detach())
    return active_share(dist_BB, mine_hard_triplets(dist_BB, label_B), 0.0)


def mutual_weights(lambda_id: float, lambda_tri: float) -> dict[str, float]:
    """Weights of `MutualTerms` by name: the soft losses have the lambdas, the hard ones the rest.

        (1 - lambda_id) L_id + lambda_id L_sid + (1 - lambda_tri) L_tri + lambda_tri L_stri

    Args:
        lambda_id: share of the soft identity loss, in [0, 1].
        lambda_tri: share of the soft triplet loss, in [0, 1].

    Raises:
        ValueError: a share is out of range.

    Source: MMT (Ge et al., ICLR 2020), equation 9.
    """
    if not (0 <= lambda_id <= 1 and 0 <= lambda_tri <= 1):
        raise ValueError(f"shares must be in [0, 1], got {lambda_id} and {lambda_tri}")
    return {
        "id": 1 - lambda_id,
        "soft_id": lambda_id,
        "tri": 1 - lambda_tri,
        "soft_tri": lambda_tri,
    }
