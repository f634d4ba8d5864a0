"""The embedding network of the MMT family: trunk, global average pooling, BN neck, classifier.

Source: methods of MMT (Ge et al., ICLR 2020); BN neck of Luo et al., CVPRW 2019, section 3.5.

Shapes: B images, C channels = embedding dimension, K classes, H x W pixels, h x w cells.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from models.backbones.attention import START, DomainAttention
from models.backbones.trunks import build_backbone
from models.errors import BackboneError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of each RGB channel, for pixels scaled to 0..1."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of each RGB channel, for pixels scaled to 0..1."""

CLASSIFIER_STD = 0.001
"""Standard deviation of the weights of a new classifier."""


class NetOutput(NamedTuple):
    """What one forward pass gives to the losses.

    pooled: (B,C) f(x), before the neck; for triplets.
    neck: (B,C) b(x), after the neck; not normalized.
    logits: (B,K) W b(x), or None without a classifier.
    """

    pooled: torch.Tensor
    neck: torch.Tensor
    logits: torch.Tensor | None


class ReIDNet(nn.Module):
    """f(x) = GAP(trunk(x)); b(x) = BN(f(x)) with its shift fixed at 0; z(x) = W b(x).

    Input: float32 (B,3,H,W) RGB, scaled to 0..1, then (x - IMAGENET_MEAN) / IMAGENET_STD.

    Args:
        backbone: one of `BACKBONES`.
        classes: K; 0 for no classifier.
        attention: weight the trunk's map by a `DomainAttention` before it is pooled.

    precision: what the trunk multiplies in, float32 or bfloat16; set from outside. Parameters,
    feature maps and all that follows the trunk are float32 in any case.
    """

    def __init__(self, backbone: str, classes: int = 0, *, attention: bool = False) -> None:
        super().__init__()
        self.backbone_name = backbone
        self.precision = torch.float32
        self.backbone, self.dimension = build_backbone(backbone)
        self.neck = nn.BatchNorm1d(self.dimension)
        self.neck.bias.requires_grad_(False)
        self.attention = DomainAttention(self.dimension) if attention else None
        self.classifier: nn.Linear | None = None
        if classes:
            self.reset_classifier(classes)

    def reset_classifier(self, classes: int, weight: torch.Tensor | None = None) -> None:
        """Put a new bias-free classifier in place: on the device of the neck, frozen if that is.

        Args:
            classes: K >= 1.
            weight: (K,C) rows, such as cluster centers; drawn from N(0, 0.001^2) when None.

        Raises:
            BackboneError: K < 1, or `weight` is not (K,C).
        """
        if classes < 1 or (weight is not None and weight.shape != (classes, self.dimension)):
            shape = None if weight is None else tuple(weight.shape)
            raise BackboneError(
                f"a classifier of {classes} classes needs rows of ({classes}, {self.dimension}), "
                f"got {shape}; pass at least one class and one row per class"
            )
        like = self.neck.weight
        self.classifier = nn.Linear(
            self.dimension, classes, bias=False, device=like.device, dtype=like.dtype
        )
        self.classifier.requires_grad_(like.requires_grad)
        with torch.no_grad():
            if weight is None:
                nn.init.normal_(self.classifier.weight, std=CLASSIFIER_STD)
            else:
                self.classifier.weight.copy_(weight)

    def add_attention(self, start: float = START) -> None:
        """Put a new attention module behind a trained trunk; embeddings nearly stay.

        Attention near `start` everywhere scales what is pooled by `start`, so the neck's
        statistics are scaled alike.
        """
        self.attention = DomainAttention(self.dimension, start).to(self.neck.weight.device)
        with torch.no_grad():
            self.neck.get_buffer("running_mean").mul_(start)
            self.neck.get_buffer("running_var").mul_(start**2)

    def trunk(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) -> (B,C,h,w) float32, before attention; computed in `precision`."""
        out: torch.Tensor
        if self.precision == torch.float32:
            out = self.backbone(x)
        else:
            with torch.autocast(x.device.type, self.precision):
                out = self.backbone(x).float()
        return out

    def feature_map(self, x: torch.Tensor) -> torch.Tensor:
        """(B,3,H,W) -> (B,C,h,w), what is pooled."""
        out = self.trunk(x)
        return out if self.attention is None else self.attention(out) * out

    def from_map(self, features: torch.Tensor) -> NetOutput:
        """(B,C,h,w) feature map -> pooled, neck and logits."""
        pooled = features.mean(dim=(2, 3))
        neck = self.neck(pooled)
        logits = None if self.classifier is None else self.classifier(neck)
        return NetOutput(pooled, neck, logits)

    def forward(self, x: torch.Tensor) -> NetOutput:
        """(B,3,H,W) -> pooled, neck and logits."""
        return self.from_map(self.feature_map(x))

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """b(x) / max(||b(x)||, 1e-12): (B,3,H,W) -> (B,C) of unit length (0 stays 0)."""
        return F.normalize(self.neck(self.feature_map(x).mean(dim=(2, 3))), dim=1, eps=1e-12)
