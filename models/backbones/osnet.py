"""OSNet: residual blocks that look at areas of four sizes and weigh them by one gate.

Sources: Zhou et al., ICCV 2019 (figures 3 to 5, table 1); Zhou et al., TPAMI 2021 (OSNet-AIN:
instance norm where an architecture search put it; OSNet-IBN, its baseline: in the stem and at the
end of both blocks of the first stage). Children are named as in the public
checkpoints, so those load by name; their `fc`, which follows the pooling, is a head and not here.

Shapes: B images, C channels, h x w cells.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

CHANNELS = (64, 256, 384, 512)
"""At width 1: of the stem and of the three stages."""

_STREAMS = 4
_SQUEEZE = 4
"""Channels of a block are divided by it inside."""

_GATE_SQUEEZE = 16
Variant = Literal["plain", "ibn", "ain"]
InstanceNorm = Literal["", "branch", "sum"]
"""Of a block: none, in place of N, or behind the sum."""

_BLOCKS: dict[Variant, tuple[tuple[InstanceNorm, InstanceNorm], ...]] = {
    "plain": (("", ""), ("", ""), ("", "")),
    "ibn": (("sum", "sum"), ("", ""), ("", "")),
    "ain": (("branch", "branch"), ("", "branch"), ("branch", "")),
}
"""Instance norm of both blocks of each stage."""


def _convolution(
    inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, norm: str = "batch"
) -> nn.Sequential:
    """Convolution that keeps h x w / stride, and its norm ("batch", "instance" or "none")."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    if norm != "none":
        batch = norm == "batch"
        layers["bn"] = nn.BatchNorm2d(outputs) if batch else nn.InstanceNorm2d(outputs, affine=True)
    return nn.Sequential(layers)


def _with_relu(layers: nn.Sequential) -> nn.Sequential:
    layers.add_module("relu", nn.ReLU(inplace=True))
    return layers


def _light(channels: int) -> nn.Sequential:
    """Lite 3x3 convolution: pointwise, then depthwise, norm and ReLU behind both."""
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(channels, channels, 1, bias=False),
            conv2=nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            bn=nn.BatchNorm2d(channels),
            relu=nn.ReLU(inplace=True),
        )
    )


def _stream(channels: int, depth: int) -> nn.Sequential:
    """`depth` lite convolutions: each cell sees 2 depth + 1 cells a side."""
    return nn.Sequential(*(_light(channels) for _ in range(depth)))


class Gate(nn.Module):
    """Unified aggregation gate: G(x) x, with one weight in (0, 1) for each image and channel.

        G(x) = sigmoid(W2 ReLU(W1 GAP(x) + b1) + b2)

    Args:
        channels: C; W1 has C/16 rows.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // _GATE_SQUEEZE, 1)
        self.fc2 = nn.Conv2d(channels // _GATE_SQUEEZE, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,C,h,w) -> (B,C,h,w)."""
        pooled = x.mean(dim=(2, 3), keepdim=True)
        return torch.sigmoid(self.fc2(torch.relu(self.fc1(pooled)))) * x


class OmniScaleBlock(nn.Module):
    """y = ReLU(M(skip(x) + N(W3 sum_t G(S_t(a))))),    a = ReLU(BN(W1 x)), t = 1..4

    S_t: t lite convolutions in a row. G: one gate for all streams. N: batch norm, or instance norm
    (`branch`). M: nothing, or instance norm (`sum`). skip: x itself, or BN(W x) where the number
    of channels changes.

    Args:
        inputs, outputs: channels of x and y; outputs a multiple of 64.
        ain: name the streams as checkpoints of OSNet-AIN do.
        instance_norm: where.
    """

    def __init__(
        self, inputs: int, outputs: int, *, ain: bool = False, instance_norm: InstanceNorm = ""
    ) -> None:
        super().__init__()
        inner = outputs // _SQUEEZE
        self.conv1 = _with_relu(_convolution(inputs, inner))
        if ain:
            self.conv2 = nn.ModuleList(
                nn.Sequential(OrderedDict(layers=_stream(inner, depth + 1)))
                for depth in range(_STREAMS)
            )
        else:
            self.conv2a = _light(inner)
            self.conv2b, self.conv2c, self.conv2d = (_stream(inner, n) for n in (2, 3, 4))
        self.gate = Gate(inner)
        self.conv3 = _convolution(
            inner, outputs, norm="none" if instance_norm == "branch" else "batch"
        )
        self.downsample = _convolution(inputs, outputs) if inputs != outputs else None
        self.IN = nn.InstanceNorm2d(outputs, affine=True) if instance_norm else None
        self.ain = ain
        self.normalizes_sum = instance_norm == "sum"

    def _streams(self) -> Iterator[nn.Module]:
        yield from self.conv2 if self.ain else (self.conv2a, self.conv2b, self.conv2c, self.conv2d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,inputs,h,w) -> (B,outputs,h,w)."""
        squeezed = self.conv1(x)
        first, *others = self._streams()
        mixed = self.gate(first(squeezed))
        for stream in others:
            mixed = mixed + self.gate(stream(squeezed))
        out = self.conv3(mixed)
        skip = x if self.downsample is None else self.downsample(x)
        if self.IN is None:
            return torch.relu(out + skip)
        return torch.relu(self.IN(out + skip) if self.normalizes_sum else self.IN(out) + skip)


def _transition(channels: int) -> nn.Sequential:
    """Between stages: mixes channels and halves h and w."""
    return nn.Sequential(_with_relu(_convolution(channels, channels)), nn.AvgPool2d(2, 2))


def osnet(width: float, variant: Variant = "plain") -> nn.Sequential:
    """Build a trunk with fresh weights, drawn as He et al. (ICCV 2015) do.

    Args:
        width: factor of all channels.
        variant: `ibn` and `ain` have instance norm in the stem and in two or four of six blocks.

    Returns:
        The trunk, (B,3,H,W) -> (B, 512 width, H/16, W/16).
    """
    stem, *stages = (int(channels * width) for channels in CHANNELS)
    children: OrderedDict[str, nn.Module] = OrderedDict()
    ain = variant == "ain"
    norm = "batch" if variant == "plain" else "instance"
    children["conv1"] = _with_relu(_convolution(3, stem, 7, stride=2, norm=norm))
    children["maxpool"] = nn.MaxPool2d(3, 2, 1)
    inputs = stem
    for number, channels in enumerate(stages, 2):
        first, second = _BLOCKS[variant][number - 2]
        blocks = [
            OmniScaleBlock(inputs, channels, ain=ain, instance_norm=first),
            OmniScaleBlock(channels, channels, ain=ain, instance_norm=second),
        ]
        last = [_transition(channels)] if number < 4 else []
        if ain:
            children[f"conv{number}"] = nn.Sequential(*blocks)
            children |= {f"pool{number}": each for each in last}
        else:
            children[f"conv{number}"] = nn.Sequential(*blocks, *last)
        inputs = channels
    children["conv5"] = _with_relu(_convolution(inputs, inputs))
    trunk = nn.Sequential(children)
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return trunk
