"""Trunks of each kind of their blocks, with an eighth of the channels."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from models.backbones import net, trunks
from models.backbones.trunks import IBN
from tests.support.graph_kinds import shorten

SHARE = 8
RGB = 3


@contextmanager
def thin_trunks() -> Iterator[None]:
    """Give each `ReIDNet` that this process builds a thin trunk.

    A run copies, checks and writes tens of megabytes and hundreds of modules for each network; most
    of the time of a test on a few crops goes there. Whatever surrounds a trunk is the same at any
    number of blocks and channels.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(net, "build_backbone", thin_backbone)
        yield


def thin_backbone(name: str) -> tuple[nn.Sequential, int]:
    """As `build_backbone`, without the blocks that only repeat: an eighth of the channels."""
    cached, channels = _thin_backbone(name)
    trunk = copy.deepcopy(cached)
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return trunk, channels


@functools.cache
def _thin_backbone(name: str) -> tuple[nn.Sequential, int]:
    """A trunk that nothing trains; to make it draws no random numbers of the test's."""
    with torch.random.fork_rng([]):
        with torch.device("meta"):
            trunk, channels = trunks.build_backbone(name)
        _make_thin(shorten(trunk))
    return trunk, channels // SHARE


def _make_thin(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            setattr(module, name, _thin_conv(child))
        elif isinstance(child, nn.BatchNorm2d | nn.InstanceNorm2d):
            setattr(module, name, type(child)(child.num_features // SHARE, affine=True))
        else:
            _make_thin(child)
        if isinstance(child, IBN):
            child.instance_channels //= SHARE


def _thin_conv(conv: nn.Conv2d) -> nn.Conv2d:
    return nn.Conv2d(
        conv.in_channels if conv.in_channels == RGB else max(conv.in_channels // SHARE, 1),
        max(conv.out_channels // SHARE, 1),  # the gates of OSNet squeeze into few channels
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        groups=max(conv.groups // SHARE, 1),
        bias=conv.bias is not None,
    )
