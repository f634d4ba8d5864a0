"""Distances inside a batch.

Shape suffixes: B images of the batch, D feature dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

MIN_SQUARED = 1e-12
"""Squared distances are clamped here: the gradient of sqrt at 0 is infinite."""


def pairwise_distance(feat_BD: Tensor) -> Tensor:
    """Euclidean distance of every pair of a batch, with finite gradients at distance 0.

        d(u, v) = sqrt(max(|u|^2 + |v|^2 - 2 u.v, 1e-12))

    Computed in at least float32, also under autocast: the cancellation in |u|^2 + |v|^2 - 2 u.v
    leaves nothing of a half-precision distance.

    Args:
        feat_BD: (B, D) floating point; pooled features, not normalized, for the MMT family.

    Returns:
        dist_BB: (B, B) >= 1e-6; exactly 1e-6 and without gradient on the diagonal.

    Raises:
        ValueError: feat_BD is not a floating point matrix.

    Source: the norm in MMT (Ge et al., ICLR 2020), equations 2 and 7.
    """
    if feat_BD.ndim != 2 or not feat_BD.is_floating_point():
        raise ValueError(
            f"feat_BD must be a (B, D) floating point tensor, got {tuple(feat_BD.shape)} "
            f"{feat_BD.dtype}"
        )
    with torch.autocast(feat_BD.device.type, enabled=False):
        feat_BD = feat_BD.to(torch.promote_types(feat_BD.dtype, torch.float32))
        square_B = feat_BD.square().sum(dim=1)
        squared_BB = square_B[:, None] + square_B[None, :] - 2 * feat_BD @ feat_BD.T
        # Rounding leaves up to |u|^2 * 1e-7 on the diagonal, where the truth is 0.
        self_BB = torch.eye(len(feat_BD), dtype=torch.bool, device=feat_BD.device)
        return squared_BB.masked_fill(self_BB, 0).clamp(min=MIN_SQUARED).sqrt()
