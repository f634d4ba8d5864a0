"""How networks are computed: in what numbers, compiled or not."""

from __future__ import annotations

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
    *,
    backend: str = "inductor",
) -> None:
    """Let the trunks of networks compute as a recipe says; heads beside them stay as they are.

    Names of parameters stay the same, and copies of a network (as extraction makes them) keep the
    precision, but are not compiled.
    backend: of torch.compile.
    Raises ConfigError when they are to be compiled and torch finds no compiler.
    """
    precision = precision_on(device, settings.precision)
    if settings.compile:
        _refuse_without_compiler(device, backend)
    for net in networks:
        if isinstance(net, ReIDNet):
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


def _twice(x: Tensor) -> Tensor:
    return 2 * x
