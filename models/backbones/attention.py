"""Domain adaptive attention (DAAL): what of a feature map domains share, and what tells them apart.

Source: DAAL (Domain Adaptive Attention Learning for Unsupervised Person Re-Identification, AAAI
2020), "Domain Adaptive Attention Module", figure 3, and "Domain-Specific Branch".

Shapes: B images, C channels, h x w cells.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

START = 0.88
"""Attention of a new module, nearly the same everywhere: a pre-trained trunk survives it."""

_START_SCALE = 0.1
"""Standard deviation of a new module's logits: near 0, but every layer gets a gradient."""


class DomainAttention(nn.Module):
    """A(F) in (0, 1), as large as F: spatial, then channel attention.

        S = resize(ReLU(BN(conv3x3(F))))                        (B,C/2,h,w)
        A = sigmoid(BN(conv1x1(ReLU(BN(conv1x1(S))))))          (B,C,h,w)

    conv3x3: C/2 kernels with stride 2, each over two channels of its own; conv1x1: C/16 and C
    kernels; resize: bilinear, back to h x w.

    Args:
        channels: C, even and at least 16.
        start: attention of the new module, up to a little noise, in (0, 1).
    """

    def __init__(self, channels: int, start: float = START) -> None:
        super().__init__()
        if channels < 16 or channels % 2 or not 0 < start < 1:
            raise ValueError(
                f"{channels} channels (even, at least 16) or start {start} (in (0, 1)) do not fit"
            )
        half, low = channels // 2, channels // 16
        self.spatial = nn.Sequential(
            nn.Conv2d(channels, half, 3, stride=2, padding=1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
        )
        last = nn.BatchNorm2d(channels)
        nn.init.constant_(last.weight, _START_SCALE)
        nn.init.constant_(last.bias, math.log(start / (1 - start)))
        self.channel = nn.Sequential(
            nn.Conv2d(half, low, 1, bias=False),
            nn.BatchNorm2d(low),
            nn.ReLU(),
            nn.Conv2d(low, channels, 1, bias=False),
            last,
            nn.Sigmoid(),
        )

    def forward(self, map_BChw: torch.Tensor) -> torch.Tensor:
        """(B,C,h,w) -> (B,C,h,w) in (0, 1)."""
        small = self.spatial(map_BChw)
        size = map_BChw.shape[2:]
        resized = F.interpolate(small, size=size, mode="bilinear", align_corners=False)
        out: torch.Tensor = self.channel(resized)
        return out


class DomainBranch(nn.Module):
    """Domain-specific branch: which domain is an image from?

        F_sp = (1 - A) F,    z = W GAP(F_sp) + b

    Args:
        channels: C.
        independent: an attention of its own instead of 1 - A (the paper's ablation "IA").
    """

    def __init__(self, channels: int, *, independent: bool = False) -> None:
        super().__init__()
        self.attention = DomainAttention(channels, start=0.5) if independent else None
        self.classifier = nn.Linear(channels, 2)

    def forward(self, map_BChw: torch.Tensor, attention_BChw: torch.Tensor | None) -> torch.Tensor:
        """F and A(F), each (B,C,h,w), -> logits (B,2). Without A (None), F_sp is F itself."""
        if self.attention is not None:
            map_BChw = self.attention(map_BChw) * map_BChw
        elif attention_BChw is not None:
            map_BChw = (1 - attention_BChw) * map_BChw
        out: torch.Tensor = self.classifier(map_BChw.mean(dim=(2, 3)))
        return out
