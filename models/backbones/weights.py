"""Load pre-trained weights into a `ReIDNet`, or refuse: never half of them.

Files of torchvision, IBN-Net, MMT's public code (github.com/yxgeee/MMT) and fast-reid
(github.com/JDAI-CV/fast-reid) are known by the names of their tensors.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from safetensors.torch import load_file

from models.backbones.net import ReIDNet
from models.backbones.trunks import BACKBONES, Stem, stem_of, with_stem
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
    """How a state dict met a network; names are ours, those of `unexpected` nearly the file's.

    matched: tensors loaded. missing: tensors of the trunk without a counterpart. unexpected:
    tensors of the file without use (classifiers are not counted). shape_mismatch: same name,
    other shape. rule: whether tensors were paired by name or by their order. names: whose names
    the file uses. neck: whether the BN neck was loaded, too.
    """

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shape_mismatch: tuple[str, ...]
    rule: Literal["name", "order"] = "name"
    names: Literal["torchvision", "MMT", "fast-reid"] = "torchvision"
    neck: bool = False

    @property
    def complete(self) -> bool:
        """Every tensor of the trunk has its counterpart."""
        return bool(self.matched) and not self.missing and not self.shape_mismatch

    def __str__(self) -> str:
        names = f" ({self.names}'s names)" if self.names != "torchvision" else ""
        neck = ", the neck's among them" if self.neck else ", the neck is new"
        lines = [f"{self.source}: {len(self.matched)} tensors matched by {self.rule}{names}{neck}"]
        for label in ("missing", "unexpected", "shape_mismatch"):
            found: tuple[str, ...] = getattr(self, label)
            if found:
                more = f", ... ({len(found)} in all)" if len(found) > 5 else ""
                lines.append(f"{label.replace('_', ' ')}: {', '.join(found[:5])}{more}")
        return "; ".join(lines)


def torchvision_state_dict(backbone: str) -> StateDict:
    """Download torchvision's ImageNet weights of a backbone (kept in torch's hub cache).

    The first published set (IMAGENET1K_V1) is taken, the one that the re-ID papers start from.

    Raises:
        WeightsError: torchvision has none of that name, or the download failed.
    """
    check_torchvision_has(backbone)
    weights = torchvision.models.get_model_weights(with_stem(backbone, "torchvision"))[_PUBLISHED]
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"cannot download {weights.url} ({error}); download it elsewhere and give the file"
        ) from error
    return cast(StateDict, state)


_PUBLISHED = "IMAGENET1K_V1"


def check_torchvision_has(backbone: str) -> None:
    """Raise WeightsError if torchvision has no weights for a backbone."""
    if with_stem(backbone, "torchvision") not in torchvision.models.list_models():
        raise WeightsError(
            f"torchvision has no weights for {backbone}; download IBN-Net's state dict "
            "(github.com/XingangPan/IBN-Net, releases) and give it as a file"
        )


def weights_file(backbone: str, source: str | Path) -> Path:
    """Path of the file behind a source of `load_weights`: itself, or torchvision's download."""
    if str(source) != TORCHVISION:
        return Path(source)
    weights = torchvision.models.get_model_weights(with_stem(backbone, "torchvision"))[_PUBLISHED]
    return Path(torch.hub.get_dir()) / "checkpoints" / str(weights.url).rpartition("/")[2]


def load_weights(
    net: ReIDNet,
    source: str | Path,
    *,
    download: Callable[[str], StateDict] = torchvision_state_dict,
) -> WeightsReport:
    """Load weights into the trunk, and into the neck if the file has one; no classifier.

    Tensors are paired by name, after the names of MMT and fast-reid have been translated. When
    the names are others, but the file's sequence of (kind, shape) equals the trunk's one to one -
    kind being weight, bias, running_mean or running_var - they are paired by order: the same
    network under other names.

    Args:
        net: what to fill; unchanged when an error is raised.
        source: a state dict or checkpoint of torchvision, IBN-Net, MMT or fast-reid (.pth, .pt,
            .pth.tar, .safetensors), or `TORCHVISION`.
        download: backbone name -> state dict, for `TORCHVISION`.

    Returns:
        What was matched and what in the file was of no use.

    Raises:
        WeightsError: unreadable file, NaN, any tensor of the trunk without counterpart, or a
            trained network that computes something else than `net` (another stem, more parts).
    """
    state = download(net.backbone_name) if str(source) == TORCHVISION else _read(Path(source))
    file = _translate(
        {k: v for k, v in _unwrap(state, str(source)).items() if not k.endswith(_COUNTER)}
    )
    wanted = {k: v for k, v in net.backbone.state_dict().items() if not k.endswith(_COUNTER)}
    given = file.trunk
    report = replace(_by_name(str(source), given, wanted), names=file.names)
    if not report.complete and _signature(given) == _signature(wanted):
        given = dict(zip(wanted, given.values(), strict=True))
        report = WeightsReport(str(source), tuple(wanted), (), (), (), "order")
    if not report.complete:
        raise WeightsError(
            f"{report}. This is not the state dict of {net.backbone_name}: "
            "choose the backbone that the file was made with, or another file"
        )
    _check_same_network(report, file, net.backbone_name)
    loaded = {f"backbone.{name}": given[name] for name in wanted}
    neck = {f"neck.{name}": tensor for name, tensor in file.neck.items()}
    has_neck = bool(neck) and not file.rest and _fits(neck, net)
    if has_neck:
        loaded |= neck
    _check_values(str(source), loaded)
    net.load_state_dict({**net.state_dict(), **loaded})
    return replace(
        report,
        matched=report.matched + (tuple(neck) if has_neck else ()),
        unexpected=report.unexpected + tuple(file.rest) + (() if has_neck else tuple(neck)),
        neck=has_neck,
    )


@dataclass(frozen=True)
class _File:
    """A state dict under our names.

    neck: its tensors by kind (`weight`, ...). rest: names of tensors with no place in ours,
    classifiers aside. trained_stem: stem of the re-ID network that was saved; None where the
    weights are a start for any stem, as ImageNet's are.
    """

    names: Literal["torchvision", "MMT", "fast-reid"]
    trunk: dict[str, torch.Tensor]
    neck: dict[str, torch.Tensor]
    rest: tuple[str, ...]
    trained_stem: Stem | None


def _translate(state: dict[str, torch.Tensor]) -> _File:
    if "base.0.weight" in state:
        return _translate_mmt(state)
    if any(name.startswith("heads.") for name in state):
        return _translate_fastreid(state)
    trunk = {name: tensor for name, tensor in state.items() if not name.startswith(_HEADS)}
    return _File("torchvision", trunk, {}, (), None)


def _translate_mmt(state: dict[str, torch.Tensor]) -> _File:
    """`base.N.` counts the children of a ResNet, `feat_bn.` is the neck.

    The plain ResNet of that code leaves the stem's ReLU out, so its last stage is child 6; the
    IBN one keeps it and ends at 7.
    """
    relu = any(name.startswith("base.7.") for name in state)
    stem = ("conv1", "bn1", "relu", "maxpool") if relu else ("conv1", "bn1", "maxpool")
    children = (*stem, "layer1", "layer2", "layer3", "layer4")
    trunk, neck, rest = {}, {}, []
    for name, tensor in state.items():
        part, _, tail = name.partition(".")
        if part == "base":
            number, _, tail = tail.partition(".")
            known = number.isdecimal() and int(number) < len(children)
            trunk[f"{children[int(number)]}.{tail}" if known else name] = tensor
        elif part == "feat_bn":
            neck[tail] = tensor
        elif part != "classifier":
            rest.append(name)
    return _File("MMT", trunk, neck, tuple(rest), "torchvision" if relu else "mmt")


def _translate_fastreid(state: dict[str, torch.Tensor]) -> _File:
    """`backbone.` is the trunk; the neck is `heads.bottleneck.0.`, in 2020 first `heads.bnneck.`.

    Between the two the stem's pooling lost its padding. A `bottleneck.0` of four axes is a
    convolution before the neck, which ours lacks.
    """
    old = "heads.bnneck.weight" in state
    prefix = "heads.bnneck." if old else "heads.bottleneck.0."
    trunk, neck, rest = {}, {}, []
    for name, tensor in state.items():
        if name.startswith("backbone."):
            trunk[name.removeprefix("backbone.")] = tensor
        elif name.startswith(prefix) and tensor.ndim == 1:
            neck[name.removeprefix(prefix)] = tensor
        elif not name.startswith(("heads.weight", "heads.classifier.", "pixel_")):
            rest.append(name)
    return _File("fast-reid", trunk, neck, tuple(rest), "torchvision" if old else "fastreid")


def _check_same_network(report: WeightsReport, file: _File, backbone: str) -> None:
    """Refuse a trained network whose tensors fit and which computes something else even so."""
    if file.trained_stem is None:
        return
    if report.unexpected:
        raise WeightsError(
            f"{report}. Its trunk has parts that {backbone} lacks, and was trained with them: "
            "choose another file"
        )
    if file.trained_stem != stem_of(backbone):
        twin = with_stem(backbone, file.trained_stem)
        remedy = f"give --backbone {twin}" if twin in BACKBONES else "no backbone here has it"
        raise WeightsError(
            f"{report.source} was trained with another stem than {backbone} has "
            f"(docs/models.md): {remedy}"
        )


def _fits(neck: StateDict, net: ReIDNet) -> bool:
    wanted = {
        f"neck.{k}": v.shape for k, v in net.neck.state_dict().items() if not k.endswith(_COUNTER)
    }
    return {name: tensor.shape for name, tensor in neck.items()} == wanted


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_numpy_figures()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"no file {path}; check the path given for the weights") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is not a plain state dict; files that hold code are refused: load it where "
            "you trust it and save only its state_dict()"
        ) from error
    except Exception as error:
        why = str(error) or ("it is cut off" if path.stat().st_size else "it is empty")
        raise WeightsError(f"{path} cannot be read ({why}); download it again") from error


def _numpy_figures() -> list[Any]:
    """What a numpy float in a file is made of: MMT's checkpoints keep their best mAP as one.

    The maker of numpy scalars was renamed in numpy 2; files have either name.
    """
    scalar = np.float64(0).__reduce__()[0]
    makers = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*makers, np.dtype, np.dtypes.Float64DType]


def _unwrap(state: object, source: str) -> dict[str, torch.Tensor]:
    """Take the state dict out of a checkpoint and drop DataParallel's prefix."""
    if isinstance(state, Mapping):
        for key in ("state_dict", "model"):
            if isinstance(state.get(key), Mapping):
                state = state[key]
                break
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
