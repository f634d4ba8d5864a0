"""Load pre-trained weights into the trunk of a `ReIDNet`, or refuse: never half of them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from safetensors.torch import load_file

from models.backbones.net import ReIDNet
from models.errors import WeightsError
from models.torchvision_compat import torchvision

TORCHVISION = "torchvision"
"""Source name that means: download torchvision's own ImageNet weights."""

StateDict = Mapping[str, torch.Tensor]

_HEADS = ("fc.", "classifier.")
_COUNTER = "num_batches_tracked"
"""Absent in files older than torch 0.4.1 and without influence on what a network computes."""


@dataclass(frozen=True)
class WeightsReport:
    """How a state dict met a trunk; names are those of the trunk, `unexpected` the file's.

    matched: tensors loaded. missing: tensors of the trunk without a counterpart. unexpected:
    tensors of the file without use (classifiers are not counted). shape_mismatch: same name,
    other shape. rule: whether tensors were paired by name or by their order.
    """

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shape_mismatch: tuple[str, ...]
    rule: Literal["name", "order"] = "name"

    @property
    def complete(self) -> bool:
        """Every tensor of the trunk has its counterpart."""
        return bool(self.matched) and not self.missing and not self.shape_mismatch

    def __str__(self) -> str:
        lines = [f"{self.source}: {len(self.matched)} tensors matched by {self.rule}"]
        for label in ("missing", "unexpected", "shape_mismatch"):
            names: tuple[str, ...] = getattr(self, label)
            if names:
                more = f", ... ({len(names)} in all)" if len(names) > 5 else ""
                lines.append(f"{label.replace('_', ' ')}: {', '.join(names[:5])}{more}")
        return "; ".join(lines)


def torchvision_state_dict(backbone: str) -> StateDict:
    """Download torchvision's ImageNet weights of a backbone (kept in torch's hub cache).

    The first published set (IMAGENET1K_V1) is taken, the one that the re-ID papers start from.

    Raises:
        WeightsError: torchvision has none of that name, or the download failed.
    """
    if backbone not in torchvision.models.list_models():
        raise WeightsError(
            f"torchvision has no weights for {backbone}; download IBN-Net's state dict "
            "(github.com/XingangPan/IBN-Net, releases) and give it as a file"
        )
    weights = torchvision.models.get_model_weights(backbone)["IMAGENET1K_V1"]
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"cannot download {weights.url} ({error}); download it elsewhere and give the file"
        ) from error
    return cast(StateDict, state)


def weights_file(backbone: str, source: str | Path) -> Path:
    """Path of the file behind a source of `load_weights`: itself, or torchvision's download."""
    if str(source) != TORCHVISION:
        return Path(source)
    url = str(torchvision.models.get_model_weights(backbone)["IMAGENET1K_V1"].url)
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def load_weights(
    net: ReIDNet,
    source: str | Path,
    *,
    download: Callable[[str], StateDict] = torchvision_state_dict,
) -> WeightsReport:
    """Load ImageNet (or other) weights into the trunk; neck and classifier stay as they are.

    Tensors are paired by name. When the names are others, but the file's sequence of
    (kind, shape) equals the trunk's one to one - kind being weight, bias, running_mean or
    running_var - they are paired by order: the same network under other names.

    Args:
        net: whose trunk to fill; unchanged when an error is raised.
        source: a state dict of torchvision or IBN-Net (.pth, .pt, .pth.tar, .safetensors), or
            `TORCHVISION`.
        download: backbone name -> state dict, for `TORCHVISION`.

    Returns:
        What was matched and what in the file was of no use.

    Raises:
        WeightsError: unreadable file, NaN, or any tensor of the trunk without counterpart.
    """
    state = download(net.backbone_name) if str(source) == TORCHVISION else _read(Path(source))
    given = {
        name: tensor
        for name, tensor in _unwrap(state, str(source)).items()
        if not name.startswith(_HEADS) and not name.endswith(_COUNTER)
    }
    wanted = {k: v for k, v in net.backbone.state_dict().items() if not k.endswith(_COUNTER)}
    report = _by_name(str(source), given, wanted)
    if not report.complete and _signature(given) == _signature(wanted):
        given = dict(zip(wanted, given.values(), strict=True))
        report = WeightsReport(str(source), tuple(wanted), (), (), (), "order")
    if not report.complete:
        raise WeightsError(
            f"{report}. This is not the state dict of {net.backbone_name}: "
            "choose the backbone that the file was made with, or another file"
        )
    loaded = {name: given[name] for name in wanted}
    _check_values(str(source), loaded)
    net.backbone.load_state_dict({**net.backbone.state_dict(), **loaded})
    return report


def _read(path: Path) -> StateDict:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return cast(StateDict, torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError as error:
        raise WeightsError(f"no file {path}; check the path given for the weights") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is not a plain state dict; files that hold code are refused: load it where "
            "you trust it and save only its state_dict()"
        ) from error
    except Exception as error:
        raise WeightsError(f"{path} cannot be read ({error}); download it again") from error


def _unwrap(state: object, source: str) -> dict[str, torch.Tensor]:
    """Take the state dict out of a checkpoint and drop DataParallel's prefix."""
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise WeightsError(f"{source} holds no state dict; save net.state_dict() and give that")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _by_name(source: str, given: StateDict, wanted: StateDict) -> WeightsReport:
    common = [name for name in wanted if name in given]
    matched = tuple(name for name in common if given[name].shape == wanted[name].shape)
    return WeightsReport(
        source,
        matched,
        missing=tuple(name for name in wanted if name not in given),
        unexpected=tuple(name for name in given if name not in wanted),
        shape_mismatch=tuple(name for name in common if name not in set(matched)),
    )


def _signature(state: StateDict) -> list[tuple[str, torch.Size]]:
    return [(name.rpartition(".")[2], tensor.shape) for name, tensor in state.items()]


def _check_values(source: str, state: StateDict) -> None:
    for name, tensor in state.items():
        bad = not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all())
        if bad or (name.endswith("running_var") and bool((tensor < 0).any())):
            raise WeightsError(
                f"{source}: {name} holds NaN, infinity or negative variances; download it again"
            )
