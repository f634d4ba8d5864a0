"""How networks are computed: in what numbers, compiled or not."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from adapt.config import Compute
from adapt.errors import ConfigError
from models.backbones.net import ReIDNet


def precision_on(device: torch.device, wanted: str) -> torch.dtype:
    """What `Compute.precision` means on a device.

    `auto` is bfloat16 where a GPU multiplies in it, and float32 elsewhere: on CPUs the same
    recipe then gives the same network, whether they have instructions for bfloat16 or not.
    """
    if wanted == "auto":
        fit = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fit else torch.float32
    return torch.bfloat16 if wanted == "bfloat16" else torch.float32


def set_up(
    networks: Iterable[nn.Module],
    settings: Compute,
    device: torch.device,
    size: tuple[int, int],
    *,
    backend: str = "inductor",
) -> None:
    """Let the trunks of networks compute as a recipe says; heads beside them stay as they are.

    Names of parameters stay the same, and copies of a network (as extraction makes them) keep the
    precision, but are not compiled.
    size: height and width of the images. backend: of torch.compile.
    Raises ConfigError when they are to be compiled and torch finds no compiler, and when the images
    are too small for bfloat16 on a CPU.
    """
    precision = precision_on(device, settings.precision)
    if settings.compile:
        _refuse_without_compiler(device, backend)
    for net in networks:
        if isinstance(net, ReIDNet):
            if precision == torch.bfloat16 and device.type == "cpu":
                _refuse_narrow_maps(net, size)
            net.precision = precision
            if settings.compile:
                net.backbone.compile(backend=backend)


def _refuse_without_compiler(device: torch.device, backend: str) -> None:
    """Compile something small: what is missing shows only then."""
    try:
        torch.compile(_twice, backend=backend)(torch.zeros(8, device=device))
    except Exception as error:
        raise ConfigError(
            f"compute.compile: torch cannot compile here ({str(error).splitlines()[0]}); install a "
            "C++ compiler (on a GPU also Triton), or --set compute.compile=false"
        ) from error


def _refuse_narrow_maps(net: ReIDNet, size: tuple[int, int]) -> None:
    """What multiplies in bfloat16 on CPUs leaves out weights that see padding alone: where a
    strided convolution reads a map one pixel wide, their gradient is whatever memory held."""
    widths: list[int] = []
    trunk = copy.deepcopy(net.backbone).cpu().eval()
    for conv in trunk.modules():
        if isinstance(conv, nn.Conv2d) and conv.stride[1] > 1 and conv.kernel_size[1] > 1:
            conv.register_forward_pre_hook(lambda _, maps: widths.append(maps[0].shape[3]))
    with torch.no_grad():
        trunk(torch.zeros(1, 3, *size))
    if min(widths) == 1:
        height, width = size
        raise ConfigError(
            f"compute.precision: images of {height}x{width} are too small for a "
            f"{net.backbone_name} in bfloat16 on a CPU, whose gradients are undefined there; "
            "--set compute.precision=float32"
        )


def _twice(x: Tensor) -> Tensor:
    return 2 * x
