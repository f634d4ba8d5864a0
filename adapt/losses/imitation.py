"""What HLI adds to mutual mean-teaching: where to erase, whom to imitate, which structure to keep.

Shape suffixes: B images of the batch, D feature dimensions, h x w cells of an activation map.
Notation: s_i feature of the student, t_i of the teacher, both of image i; y_i its label.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from adapt.losses.distance import pairwise_distance

FLAT = 1e-5
"""A map whose values differ by less than this share of its largest magnitude has no maximum."""

Relation = Literal["inverse", "relative", "softmax"]
"""How an element of a relation matrix is made of a distance, see `relation_matrix`."""


def informative_point(
    cam_Bhw: Tensor, height: int, width: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Find the pixel that an activation map points at; any pixel where it points nowhere.

        (P_x, P_y) = argmax CAM(x_i)

    The center of the greatest cell: there a bilinear enlargement of the map has its maximum. Ties
    go to the first cell. Where max - min <= 1e-5 max|.| the point is drawn from the whole image.

    Args:
        cam_Bhw: (B, h, w) floating point.
        height, width: H, W of the images in pixels.
        generator: on the CPU; B points are drawn from it whatever the maps are.

    Returns:
        point_B2: (B, 2) float32 row in [0, H] and column in [0, W], on the CPU.
        flat_B: (B,) bool, whether the point was drawn.

    Raises:
        ValueError: the maps are not (B, h, w).

    Source: HLI (2021), equation 1.
    """
    if cam_Bhw.ndim != 3:
        raise ValueError(f"activation maps must be (B, h, w), got {tuple(cam_Bhw.shape)}")
    size_2 = torch.tensor([height, width], dtype=torch.float32)
    anywhere_B2 = torch.rand(len(cam_Bhw), 2, generator=generator) * size_2
    cell_BP = cam_Bhw.detach().flatten(1).cpu()
    spread_B = cell_BP.amax(dim=1) - cell_BP.amin(dim=1)
    flat_B = spread_B <= FLAT * cell_BP.abs().amax(dim=1)
    rows, columns = cam_Bhw.shape[1:]
    best_B = cell_BP.argmax(dim=1)
    best_B2 = torch.stack([best_B // columns, best_B % columns], dim=1)
    peak_B2 = (best_B2 + 0.5) * size_2 / torch.tensor([rows, columns])
    return torch.where(flat_B[:, None], anywhere_B2, peak_B2), flat_B


def mimic_loss(student_BD: Tensor, teacher_BD: Tensor, right_B: Tensor) -> Tensor:
    """Draw the student to its teacher where the teacher is right.

        L_mim = mean over i in C of |s_i - t_i|^2

    Args:
        student_BD: (B, D) features.
        teacher_BD: (B, D) features of the same images; gets no gradient.
        right_B: (B,) bool, whether the teacher names the label: the set C.

    Returns:
        Scalar >= 0; 0 where C is empty.

    Raises:
        ValueError: shapes or dtypes do not fit.

    Source: HLI (2021), equation 2.
    """
    _check(student_BD, teacher_BD, right_B)
    return _mean_over(right_B, _squared(student_BD, teacher_BD))


def repel_loss(student_BD: Tensor, teacher_BD: Tensor, right_B: Tensor, bound: float) -> Tensor:
    """Push the student away from its teacher where the teacher is wrong, up to a bound.

        - mean over i not in C of min(|s_i - t_i|^2, bound)

    Without the bound nothing holds features that are not normalized: the loss falls for ever as
    they grow. Unit vectors are never farther apart than 4.

    Args:
        student_BD: (B, D) features.
        teacher_BD: (B, D) features of the same images; gets no gradient.
        right_B: (B,) bool, whether the teacher names the label: the set C.
        bound: > 0, squared distance from which on nothing is pushed.

    Returns:
        Scalar in [-bound, 0]; 0 where the teacher is right everywhere.

    Raises:
        ValueError: shapes or dtypes do not fit, or bound is not positive.

    Source: HLI (2021), equation 3, first term; the bound is ours.
    """
    _check(student_BD, teacher_BD, right_B)
    if not bound > 0:
        raise ValueError(f"bound must be > 0, got {bound}")
    return -_mean_over(~right_B, _squared(student_BD, teacher_BD).clamp(max=bound))


def attract_loss(
    student_BD: Tensor, teacher_BD: Tensor, right_B: Tensor, label_B: Tensor
) -> Tensor:
    """Draw the student to what the teacher says of the same person's images that it gets right.

        mean over i not in C with C_i not empty of |s_i - m_i|^2,
        m_i = mean over j in C_i of t_j,    C_i = {j in C: y_j = y_i}

    Args:
        student_BD: (B, D) features.
        teacher_BD: (B, D) features of the same images; gets no gradient.
        right_B: (B,) bool, whether the teacher names the label: the set C.
        label_B: (B,) int64.

    Returns:
        Scalar >= 0; 0 where no wrong image has a right one beside it.

    Raises:
        ValueError: shapes or dtypes do not fit.

    Source: HLI (2021), equation 3, second term.
    """
    _check(student_BD, teacher_BD, right_B)
    if label_B.shape != right_B.shape:
        raise ValueError(
            f"labels {tuple(label_B.shape)} must be one for each image, ({len(right_B)},)"
        )
    helper_BB = ((label_B[:, None] == label_B[None, :]) & right_B).to(teacher_BD.dtype)
    helpers_B = helper_BB.sum(dim=1)
    mean_BD = helper_BB @ teacher_BD.detach() / helpers_B.clamp(min=1)[:, None]
    return _mean_over(~right_B & (helpers_B > 0), _squared(student_BD, mean_BD))


def relation_matrix(feat_BD: Tensor, relation: Relation) -> Tensor:
    """Likeness of every pair of a batch, a normalized inverse of their distance d_ij.

        inverse:   A_ij = 1 / (1 + d_ij)
        relative:  A_ij = 1 / (1 + d_ij / mean of d over all pairs i != j)
        softmax:   A_ij = exp(-d_ij) / sum_k exp(-d_ik)

    Args:
        feat_BD: (B, D) floating point, B >= 2.
        relation: which of the three.

    Returns:
        (B, B) in (0, 1], greatest on the diagonal; finite gradients.

    Raises:
        ValueError: feat_BD is not a floating point matrix of two rows or more.

    Source: HLI (2021), equation 5, whose metric is given in words only: "the normalized inverse
        Euclidean distance".
    """
    dist_BB = pairwise_distance(feat_BD)
    size = len(dist_BB)
    if size < 2:
        raise ValueError("a relation needs two images or more")
    if relation == "softmax":
        return (-dist_BB).softmax(dim=1)
    if relation == "relative":
        dist_BB = dist_BB / (dist_BB.sum() / (size * (size - 1)))
    return 1 / (1 + dist_BB)


def structure_loss(student_BD: Tensor, teacher_BD: Tensor, relation: Relation) -> Tensor:
    """Keep the relations between the images of a batch as the teacher sees them.

        L_sd = 1/B^2 sum_ij (A^S_ij - A^T_ij)^2

    Args:
        student_BD: (B, D) features.
        teacher_BD: (B, D) features of the same images; gets no gradient.
        relation: see `relation_matrix`.

    Returns:
        Scalar in [0, 1].

    Raises:
        ValueError: shapes do not fit.

    Source: HLI (2021), equation 6.
    """
    if student_BD.shape != teacher_BD.shape:
        raise ValueError(
            f"student {tuple(student_BD.shape)} and teacher {tuple(teacher_BD.shape)} differ"
        )
    return F.mse_loss(
        relation_matrix(student_BD, relation), relation_matrix(teacher_BD.detach(), relation)
    )


def _check(student_BD: Tensor, teacher_BD: Tensor, right_B: Tensor) -> None:
    if student_BD.ndim != 2 or student_BD.shape != teacher_BD.shape:
        raise ValueError(
            f"student {tuple(student_BD.shape)} and teacher {tuple(teacher_BD.shape)} must both "
            "be (B, D)"
        )
    if right_B.shape != student_BD.shape[:1] or right_B.dtype != torch.bool:
        raise ValueError(
            f"right_B must be ({len(student_BD)},) bool, got {tuple(right_B.shape)} {right_B.dtype}"
        )


def _squared(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    return (student_BD - teacher_BD.detach()).square().sum(dim=1)


def _mean_over(chosen_B: Tensor, value_B: Tensor) -> Tensor:
    """Mean of the chosen values, 0 (with a gradient of 0) where none is."""
    return value_B.where(chosen_B, 0).sum() / chosen_B.sum().clamp(min=1)
