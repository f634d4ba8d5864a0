"""What an exporter meets in a network: blocks of a few kinds, repeated with other channels."""

from __future__ import annotations

import re

from torch import nn

from models.backbones.net import ReIDNet


def kind(block: nn.Module) -> str:
    """A module's operations and their settings, without numbers of channels."""
    text = re.sub(r"(?<=\w\()\d+(, \d+)?, ", "", repr(block))
    adds_input = getattr(block, "use_res_connect", None)  # of MobileNetV2, in no repr
    return re.sub(r"groups=\d+", "groups=channels", text) + f" adds its input: {adds_input}"


def kinds(net: ReIDNet) -> frozenset[str]:
    """The kinds of a network's blocks; one for the stem, whose layers are in no stage."""
    children = list(net.backbone.children())
    blocks = [b for child in children if isinstance(child, nn.Sequential) for b in child]
    stem = nn.Sequential(*(child for child in children if not isinstance(child, nn.Sequential)))
    return frozenset(map(kind, [stem, *blocks, net.attention or nn.Identity()]))


def shorten(trunk: nn.Sequential) -> nn.Sequential:
    """Take out the blocks that repeat a kind and keep the number of channels; gives `trunk`."""
    seen: set[str] = set()
    for name, stage in trunk.named_children():
        if isinstance(stage, nn.Sequential):
            left = []
            for block in stage:
                if kind(block) not in seen or not _keeps_channels(block):
                    left.append(block)
                seen.add(kind(block))
            setattr(trunk, name, nn.Sequential(*left))
    return trunk


def _keeps_channels(block: nn.Module) -> bool:
    keeps: bool = getattr(block, "use_res_connect", getattr(block, "downsample", block) is None)
    return keeps
