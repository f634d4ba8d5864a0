"""Heads on parts of the feature map, for training only: a kept or exported network has none.

Sources: Sun et al., ECCV 2018 (PCB: pooled stripes, each with a reduction and a classifier of its
own); AML (Huang et al., 2021), section 4.2 (upper and lower body in place of stripes).

Shapes: B images, P parts, C channels, h x w cells, H x W pixels, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from models.backbones.net import CLASSIFIER_STD

PARTS = ("upper", "lower")
"""Of the body, in the order of every P axis."""

REDUCED = 256
"""Dimensions of a part's feature, as in PCB."""

_EMPTY = 1e-6


def half_masks(height: int, width: int, *, like: torch.Tensor) -> torch.Tensor:
    """(2,h,w) of ones and zeros: the upper and the lower half; an odd middle row is in both."""
    masks = torch.zeros(len(PARTS), height, width, device=like.device, dtype=like.dtype)
    masks[0, : (height + 1) // 2] = 1
    masks[1, height // 2 :] = 1
    return masks


def cell_masks(masks: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bring masks to the cells of a feature map.

    masks: (B,2,H,W) in [0, 1]. Returns (B,2,h,w), the share of each cell that a part covers.
    Where a part is nowhere in an image (not found, or cropped away) its half stands in.
    """
    if masks.ndim != 4 or masks.shape[1] != len(PARTS):
        raise ValueError(f"masks {tuple(masks.shape)} must be (B, {len(PARTS)}, H, W)")
    cells = F.adaptive_avg_pool2d(masks, (height, width))
    absent = cells.sum(dim=(2, 3), keepdim=True) < _EMPTY
    return torch.where(absent, half_masks(height, width, like=cells), cells)


def masked_pool(features: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Average a feature map over each part: f_p = sum_hw m_p F / sum_hw m_p.

    features: (B,C,h,w). masks: (B,P,h,w) or (P,h,w), >= 0, no part all zero. Returns (B,P,C).
    """
    if masks.shape[-2:] != features.shape[-2:]:
        raise ValueError(
            f"masks {tuple(masks.shape)} do not fit a map {tuple(features.shape)}; see cell_masks"
        )
    weights = masks / masks.sum(dim=(-2, -1), keepdim=True)
    return torch.einsum("bchw,bphw->bpc", features, weights.expand(len(features), -1, -1, -1))


class PartHeads(nn.Module):
    """z_p = W_p ReLU(BN(R_p f_p)) + b_p: reduction and classifier of each part.

    Args:
        dimension: C.
        classes: K.
    """

    def __init__(self, dimension: int, classes: int) -> None:
        super().__init__()
        self.reductions = nn.ModuleList(
            nn.Sequential(
                nn.Linear(dimension, REDUCED, bias=False), nn.BatchNorm1d(REDUCED), nn.ReLU()
            )
            for _ in PARTS
        )
        self.classifiers = nn.ModuleList(_classifier(classes) for _ in PARTS)

    def forward(self, parts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B,2,C) pooled parts -> (B,K) logits of each."""
        heads = zip(self.reductions, self.classifiers, parts.unbind(1), strict=True)
        return tuple(classifier(reduction(part)) for reduction, classifier, part in heads)


def _classifier(classes: int) -> nn.Linear:
    """K rows of small weights, as in PCB."""
    classifier = nn.Linear(REDUCED, classes)
    nn.init.normal_(classifier.weight, std=CLASSIFIER_STD)
    nn.init.zeros_(classifier.bias)
    return classifier
