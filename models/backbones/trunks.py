"""Convolutional trunks: torchvision's own networks, and OSNet, without pooling and classifier.

Child names are kept, so the state dicts of torchvision, IBN-Net and torchreid load by name.

Sources: He et al., CVPR 2016 (ResNet); Luo et al., CVPRW 2019, section 3.4 (last stride 1);
Pan et al., ECCV 2018, figure 3b (IBN-a); Sandler et al., CVPR 2018 (MobileNetV2);
Zhou et al., ICCV 2019 and TPAMI 2021 (OSNet, in `osnet.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import nn

from models.backbones.osnet import osnet
from models.errors import BackboneError
from models.torchvision_compat import torchvision


class IBN(nn.Module):
    """Instance norm on the first half of the channels, batch norm on the rest.

    y = [IN(x_{1..C/2}), BN(x_{C/2+1..C})]; sub-modules are named as in IBN-Net's state dicts.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.instance_channels = channels // 2
        self.IN = nn.InstanceNorm2d(self.instance_channels, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.instance_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B,C,h,w) -> (B,C,h,w)."""
        instance, batch = x[:, : self.instance_channels], x[:, self.instance_channels :]
        return torch.cat([self.IN(instance), self.BN(batch)], dim=1)


Stem = Literal["torchvision", "mmt", "fastreid"]
"""What lies between the first convolution and the first stage of a ResNet.

mmt: without ReLU, as in the ResNet of MMT's public code. fastreid: pooling without padding, as in
fast-reid since November 2020. Neither changes a name or a shape, only what trained weights mean.
"""


def _resnet(name: str, *, ibn_a: bool, stem: Stem = "torchvision") -> nn.Sequential:
    net = torchvision.models.get_model(name, weights=None)
    first = net.layer4[0]
    strided = first.conv2 if hasattr(first, "conv3") else first.conv1
    for conv in (strided, first.downsample[0]):
        conv.stride = (1, 1)
    if ibn_a:
        for block in (*net.layer1, *net.layer2, *net.layer3):
            block.bn1 = IBN(block.bn1.num_features)
    if stem == "mmt":
        del net.relu
    if stem == "fastreid":
        net.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
    children = [(key, child) for key, child in net.named_children() if key not in ("avgpool", "fc")]
    return nn.Sequential(OrderedDict(children))


def _mobilenet_v2() -> nn.Sequential:
    net = torchvision.models.get_model("mobilenet_v2", weights=None)
    return nn.Sequential(OrderedDict(features=net.features))


_BUILDERS: dict[str, tuple[Callable[[], nn.Sequential], int]] = {
    "resnet18": (partial(_resnet, "resnet18", ibn_a=False), 512),
    "resnet34": (partial(_resnet, "resnet34", ibn_a=False), 512),
    "resnet50": (partial(_resnet, "resnet50", ibn_a=False), 2048),
    "resnet18_ibn_a": (partial(_resnet, "resnet18", ibn_a=True), 512),
    "resnet34_ibn_a": (partial(_resnet, "resnet34", ibn_a=True), 512),
    "resnet50_ibn_a": (partial(_resnet, "resnet50", ibn_a=True), 2048),
    "resnet50_mmt": (partial(_resnet, "resnet50", ibn_a=False, stem="mmt"), 2048),
    "resnet50_fastreid": (partial(_resnet, "resnet50", ibn_a=False, stem="fastreid"), 2048),
    "resnet50_ibn_a_fastreid": (partial(_resnet, "resnet50", ibn_a=True, stem="fastreid"), 2048),
    "mobilenet_v2": (_mobilenet_v2, 1280),
    "osnet_x0_25": (partial(osnet, 0.25), 128),
    "osnet_x0_5": (partial(osnet, 0.5), 256),
    "osnet_x0_75": (partial(osnet, 0.75), 384),
    "osnet_x1_0": (partial(osnet, 1.0), 512),
    "osnet_ibn_x1_0": (partial(osnet, 1.0, "ibn"), 512),
    "osnet_ain_x0_25": (partial(osnet, 0.25, "ain"), 128),
    "osnet_ain_x0_5": (partial(osnet, 0.5, "ain"), 256),
    "osnet_ain_x0_75": (partial(osnet, 0.75, "ain"), 384),
    "osnet_ain_x1_0": (partial(osnet, 1.0, "ain"), 512),
}

BACKBONES = tuple(_BUILDERS)
"""Names that `build_backbone` knows."""


def stem_of(name: str) -> Stem:
    """Stem of a backbone; of one that is not a ResNet, `torchvision`."""
    last = name.rpartition("_")[2]
    return "mmt" if last == "mmt" else "fastreid" if last == "fastreid" else "torchvision"


def with_stem(name: str, stem: Stem) -> str:
    """Name of the same backbone with another stem; not every one exists."""
    plain = name.removesuffix(f"_{stem_of(name)}")
    return plain if stem == "torchvision" else f"{plain}_{stem}"


def build_backbone(name: str) -> tuple[nn.Sequential, int]:
    """Build a trunk with fresh weights from torch's global generator.

    Args:
        name: one of `BACKBONES`; `_ibn_a` marks IBN-a in stages 1 to 3, `_mmt` and `_fastreid`
            another `Stem`.

    Returns:
        The trunk, (B,3,H,W) -> (B,C,h,w), and C. ResNets (last stride 1) and OSNets have
        h = H/16, MobileNetV2 h = H/32.

    Raises:
        BackboneError: the name is not known.
    """
    if name not in _BUILDERS:
        raise BackboneError(f"no backbone {name!r}; choose one of {', '.join(BACKBONES)}")
    builder, channels = _BUILDERS[name]
    return builder(), channels


def refuse_small_images(name: str, height: int, width: int) -> None:
    """Refuse images that a trunk shrinks to nothing before its last layer.

    Where a map is one cell, instance norm has no variance to train with; OSNet's average pooling
    leaves no cell of it.

    Raises:
        BackboneError: the images are too small, or the name is not known.
    """
    if min(height, width) >= 32:  # what no trunk here shrinks to one cell before its last norm
        return
    with torch.device("meta"):  # shapes only
        trunk, _ = build_backbone(name)
        try:
            trunk(torch.zeros(2, 3, height, width))
        except (RuntimeError, ValueError) as error:
            raise BackboneError(
                f"images of {height}x{width} are too small for {name}: give a larger --height and "
                f"--width, 32 and 16 at least ({error})"
            ) from error
