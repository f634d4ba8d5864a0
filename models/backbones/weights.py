"""Load pre-trained weights into a `ReIDNet`, or refuse: never half of them.

The trunk is found under any prefix and any key of a checkpoint. MMT's public code
(github.com/yxgeee/MMT), fast-reid (github.com/JDAI-CV/fast-reid) and the networks of BoT
(github.com/michuanhaohao/reid-strong-baseline) are known by the names of their tensors: they say
which stem was trained.
"""

from __future__ import annotations

import logging
import pickle
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, cast

import torch

from models.backbones.checkpoints import read_state_dicts, state_dicts
from models.backbones.domain_norms import of_target_domain, tells_target
from models.backbones.net import IMAGENET_MEAN, IMAGENET_STD, ReIDNet
from models.backbones.trunks import BACKBONES, Stem, build_backbone, stem_of, with_stem
from models.errors import WeightsError
from models.torchvision_compat import torchvision

log = logging.getLogger("resight")

TORCHVISION = "torchvision"
"""Source name that means: download torchvision's own ImageNet weights."""

StateDict = Mapping[str, torch.Tensor]

_PREFERRED = ("state_dict", "model", "net", "network", "model_state_dict", "teacher")
"""Keys of a checkpoint, the first taken where several hold the whole trunk."""

_HEADS = ("fc", "fc_query", "cls_score", "logits", "arcface", "linear", "last_linear")
"""Modules that score classes, beside those whose name starts with `classifier`."""

_NECKS = ("neck", "bottleneck", "bnneck", "bn_neck", "bn", "feat_bn")
"""Modules that are the neck where their tensors have its shapes."""

_STAGES = ("layer1", "layer2", "layer3", "layer4")
_COUNTER = "num_batches_tracked"
"""Absent in files older than torch 0.4.1 and without influence on what a network computes."""

_OTHER_NETWORKS = {
    r"(pos_embed|cls_token|class_embedding)$": "a vision transformer",
    r"(^|\.)b1_head\.": "MGN, with three branches behind one stem",
    r"\.conv2\.fc1\.weight$": "a ResNeSt",
}
"""Names of tensors, and the networks of re-ID projects that have them."""

Names = Literal["torchvision", "MMT", "fast-reid", "BoT"]


@dataclass(frozen=True)
class WeightsReport:
    """How a state dict met a network; names are ours, those of `unexpected` nearly the file's.

    matched: tensors loaded. missing: tensors of the trunk without a counterpart. unexpected:
    tensors of the file without use, its heads aside. shape_mismatch: same name, other shape.
    rule: whether tensors were paired by name or by their order. names: whose names the file uses.
    neck: whether the BN neck was loaded, too. heads: what scored classes, which is left out.
    key: of the checkpoint, where the tensors were; others: keys that hold the whole trunk, too.
    prefix: taken off the trunk's names. domains: see `of_target_domain`.
    """

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shape_mismatch: tuple[str, ...]
    rule: Literal["name", "order"] = "name"
    names: Names = "torchvision"
    neck: bool = False
    heads: tuple[str, ...] = ()
    key: str = ""
    others: tuple[str, ...] = ()
    prefix: str = ""
    domains: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Every tensor of the trunk has its counterpart."""
        return bool(self.matched) and not self.missing and not self.shape_mismatch

    def __str__(self) -> str:
        names = f" ({self.names}'s names)" if self.names != "torchvision" else ""
        neck = ", the neck's among them" if self.neck else ", the neck is new"
        key = f" under {self.key}" if self.key else ""
        found = f"{self.source}: {len(self.matched)} tensors{key} matched by {self.rule}{names}"
        lines = [f"{found}{neck}"]
        if self.prefix:
            lines.append(f"taken off the names: {self.prefix}")
        if self.domains:
            which = "the target's" if tells_target(self.domains) else "the first"
            lines.append(f"of the batch norms of several domains, {which}: {self.domains[0]}")
        if self.others:
            lines.append(f"the same trunk is also under: {', '.join(self.others)}")
        for label in ("missing", "unexpected", "shape_mismatch", "heads"):
            listed: tuple[str, ...] = getattr(self, label)
            if listed:
                more = f", ... ({len(listed)} in all)" if len(listed) > 5 else ""
                title = "heads left out" if label == "heads" else label.replace("_", " ")
                lines.append(f"{title}: {', '.join(listed[:5])}{more}")
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
        theirs = (
            "torchreid's (github.com/KaiyangZhou/deep-person-reid, model zoo)"
            if backbone.startswith("osnet")
            else "IBN-Net's (github.com/XingangPan/IBN-Net, releases)"
        )
        raise WeightsError(
            f"torchvision has no weights for {backbone}; download {theirs} and give it as a file"
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

    Tensors are paired by name, after the names of MMT and fast-reid have been translated and
    what stands before the trunk's names has been taken off. When the names are others, but the
    file's sequence of (kind, shape), heads aside, equals the trunk's one to one - kind being
    weight, bias, running_mean or running_var - they are paired by order: the same network under
    other names.

    Args:
        net: what to fill; unchanged when an error is raised.
        source: a state dict, or a checkpoint with one under any key (.pth, .pt, .pth.tar, .ckpt,
            .safetensors), or `TORCHVISION`.
        download: backbone name -> state dict, for `TORCHVISION`.

    Returns:
        What was matched and what in the file was of no use.

    Raises:
        WeightsError: unreadable file, NaN, any tensor of the trunk without counterpart, several
            trunks in one state dict, or a trained network that computes something else than
            `net` (another stem, more parts).
    """
    if str(source) == TORCHVISION:
        states = state_dicts(download(net.backbone_name), TORCHVISION)
    else:
        states = read_state_dicts(Path(source))
    wanted = _without_counters(net.backbone.state_dict())
    report, file = _best(str(source), states, wanted)
    given = file.trunk
    if not report.complete and _signature(given) == _signature(wanted):
        given = dict(zip(wanted, given.values(), strict=True))
        report = replace(report, matched=tuple(wanted), missing=(), unexpected=(), rule="order")
        report = replace(report, shape_mismatch=())
    if not report.complete:
        raise WeightsError(
            f"{report}. This is not the state dict of {net.backbone_name}: "
            f"{_other_backbone(str(source), states)}"
        )
    _check_same_network(report, file, net.backbone_name, wanted)
    loaded = {f"backbone.{name}": given[name] for name in wanted}
    neck = {f"neck.{name}": tensor for name, tensor in file.neck.items()}
    has_neck = bool(neck) and not file.rest and _fits(neck, net)
    if has_neck:
        loaded |= neck
    _check_values(str(source), loaded)
    net.load_state_dict({**net.state_dict(), **loaded})
    _warn_of_domains(str(source), report.domains)
    return replace(
        report,
        matched=report.matched + (tuple(neck) if has_neck else ()),
        unexpected=report.unexpected + tuple(file.rest) + (() if has_neck else tuple(neck)),
        neck=has_neck,
    )


def _warn_of_domains(source: str, domains: Sequence[str]) -> None:
    if not tells_target(domains):
        log.warning(
            "%s has batch norms of the domains %s and does not tell which is the target; %s is "
            "taken, as the target is the first in OpenUnReID's published configs. If it is another "
            "in yours, save the state dict with the norms of that one alone",
            *(source, ", ".join(domains), domains[0]),
        )


@dataclass(frozen=True)
class _File:
    """A state dict under our names.

    neck: its tensors by kind (`weight`, ...). rest: names of tensors with no place in ours.
    heads: names and shapes of what scored classes. trained_stem: stem of the re-ID network that
    was saved; None where the weights are a start for any stem, as ImageNet's are.
    prefixes: what was taken off; several where the state dict has the trunk several times.
    """

    names: Names
    trunk: dict[str, torch.Tensor]
    neck: dict[str, torch.Tensor]
    rest: tuple[str, ...]
    heads: tuple[str, ...]
    trained_stem: Stem | None
    prefixes: tuple[str, ...] = ("",)


def _without_counters(state: StateDict) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.endswith(_COUNTER)}


def _best(
    source: str, states: Mapping[str, StateDict], wanted: StateDict
) -> tuple[WeightsReport, _File]:
    """The state dict of a checkpoint that has most of the trunk."""
    found: list[tuple[WeightsReport, _File]] = []
    for key, state in states.items():
        one_domain, domains = of_target_domain(_without_counters(state))
        file = _translate(one_domain, wanted)
        report = replace(
            _by_name(source, file.trunk, wanted),
            names=file.names,
            heads=file.heads,
            key=key,
            prefix=file.prefixes[0],
            domains=domains,
        )
        found.append((report, file))

    def rank(each: tuple[WeightsReport, _File]) -> tuple[int, bool, int]:
        last = each[0].key.rpartition(".")[2]
        preferred = _PREFERRED.index(last) if last in _PREFERRED else len(_PREFERRED)
        same_order = _signature(each[1].trunk) == _signature(wanted)
        return len(each[0].matched), same_order, -preferred

    best, file = max(found, key=rank)
    others = tuple(each.key for each, _ in found if each.complete and each is not best)
    return replace(best, others=others if best.complete else ()), file


def _translate(state: dict[str, torch.Tensor], wanted: StateDict) -> _File:
    """Known layouts first, then any; a prefix common to all names is taken off on the way."""
    common, named = "", state
    while True:
        if "base.0.weight" in state:
            return replace(_translate_mmt(state), prefixes=(common,))
        parts = {name.partition(".")[0] for name in state}
        if {"heads", "backbone"} <= parts:
            return replace(_translate_fastreid(state), prefixes=(common,))
        if len(parts) != 1 or parts & {name.partition(".")[0] for name in wanted}:
            break
        part = f"{parts.pop()}."
        if not all(name.startswith(part) for name in state):
            break
        common += part
        state = {name.removeprefix(part): tensor for name, tensor in state.items()}
    file = _translate_any(*_named_children(state), wanted)
    if not file.trunk.keys() & wanted.keys():
        return _translate_any(named, False, wanted)  # for people: under the file's own names
    return replace(file, prefixes=tuple(f"{common}{each}" for each in file.prefixes))


def _named_children(state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], bool]:
    """Rename the numbered children of a ResNet; whether they show that its stem has no ReLU."""
    ends = (".6.0.conv1.weight", ".7.0.conv1.weight")
    dotted = {f".{name}": tensor for name, tensor in state.items()}
    last = next((name for name in reversed(dotted) if name.endswith(ends)), None)
    if last is None:
        return state, False
    prefix = last[: -len(ends[0])]
    relu = f"{prefix}.7.0.conv1.weight" in dotted
    children = _children(relu=relu)
    renamed = {}
    for name, tensor in dotted.items():
        number, _, tail = name.removeprefix(f"{prefix}.").partition(".")
        known = name.startswith(f"{prefix}.") and number.isdecimal() and int(number) < len(children)
        new = f"{prefix}.{children[int(number)]}.{tail}" if known else name
        renamed[new.removeprefix(".")] = tensor
    return renamed, not relu


def _children(*, relu: bool) -> tuple[str, ...]:
    """Children of a ResNet in their order."""
    return ("conv1", "bn1", *(("relu",) if relu else ()), "maxpool", *_STAGES)


def _translate_any(state: dict[str, torch.Tensor], without_relu: bool, wanted: StateDict) -> _File:
    """The trunk is where most of its names are; the rest is told apart by names and shapes.

    The plain ResNet of BoT, which AGW, CTL and TransReID took over, has no ReLU in its stem; the
    IBN one has. Their trunk is `base`, their neck `bottleneck`, CTL's `bn`.
    """
    prefixes = _prefixes(state, wanted)
    prefix = prefixes[0]
    own = {name.partition(".")[0] for name in wanted}
    linear = {
        name.rpartition(".")[0]
        for name, tensor in state.items()
        if name.endswith("weight") and tensor.ndim == 2
    }
    trunk, rest, heads = {}, [], []
    necks: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in state.items():
        under = name.startswith(prefix)
        inside = name.removeprefix(prefix)
        module, _, kind = name.rpartition(".")
        parts = module.split(".")
        if under and inside.partition(".")[0] in own:
            trunk[inside] = tensor
        elif any(part in _HEADS or part.startswith("classifier") for part in parts):
            heads.append(_with_shape(name, tensor))
        elif parts[-1] in _NECKS and tensor.ndim == 1:
            necks.setdefault(module, {})[kind] = tensor
        elif under and module not in linear:
            trunk[inside] = tensor
        else:
            rest.append(name)
    neck: dict[str, torch.Tensor] = {}
    if len(necks) == 1:
        module, neck = necks.popitem()
        bot = prefix.endswith("base.") and module.rpartition(".")[2] in ("bottleneck", "bn")
    else:
        bot = False
        rest += [f"{module}.{kind}" for module, tensors in necks.items() for kind in tensors]
    stem: Stem | None = "mmt" if without_relu else None
    if bot and "layer4.0.conv1.weight" in trunk:
        stem = "torchvision" if any(".IN." in name for name in trunk) else "mmt"
    return _File(
        "BoT" if bot else "torchvision", trunk, neck, tuple(rest), tuple(heads), stem, prefixes
    )


def _prefixes(state: StateDict, wanted: StateDict) -> tuple[str, ...]:
    """What stands before the trunk's names; several where all of them are there several times."""
    counts: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in wanted:
                counts["".join(f"{part}." for part in parts[:cut])] += 1
    if not counts:
        return ("",)
    most = max(counts.values())
    best = sorted((each for each, count in counts.items() if count == most), key=len)
    return tuple(best) if most == len(wanted) else (best[0],)


def _with_shape(name: str, tensor: torch.Tensor) -> str:
    return f"{name} ({' x '.join(map(str, tensor.shape))})"


def _is_imagenets(name: str, tensor: torch.Tensor) -> bool:
    """Whether it is the pre-processing that all our networks have."""
    known = {"pixel_mean": IMAGENET_MEAN, "pixel_std": IMAGENET_STD}.get(name)
    if known is None or tensor.numel() != len(known):
        return False
    return torch.allclose(tensor.flatten().float() / 255, torch.tensor(known), atol=2e-3)


def _translate_mmt(state: dict[str, torch.Tensor]) -> _File:
    """`base.N.` counts the children of a ResNet, `feat_bn.` is the neck.

    The plain ResNet of that code leaves the stem's ReLU out, so its last stage is child 6; the
    IBN one keeps it and ends at 7.
    """
    relu = any(name.startswith("base.7.") for name in state)
    children = _children(relu=relu)
    trunk, neck, rest, heads = {}, {}, [], []
    for name, tensor in state.items():
        part, _, tail = name.partition(".")
        if part == "base":
            number, _, tail = tail.partition(".")
            known = number.isdecimal() and int(number) < len(children)
            trunk[f"{children[int(number)]}.{tail}" if known else name] = tensor
        elif part == "feat_bn":
            neck[tail] = tensor
        elif part == "classifier":
            heads.append(_with_shape(name, tensor))
        else:
            rest.append(name)
    stem: Stem = "torchvision" if relu else "mmt"
    return _File("MMT", trunk, neck, tuple(rest), tuple(heads), stem)


def _translate_fastreid(state: dict[str, torch.Tensor]) -> _File:
    """`backbone.` is the trunk; the neck is `heads.bottleneck.0.`, in 2020 first `heads.bnneck.`.

    Between the two the stem's pooling lost its padding. A `bottleneck.0` of four axes is a
    convolution before the neck, which ours lacks. `pixel_mean` and `pixel_std` are those of 0..255.
    """
    old = "heads.bnneck.weight" in state
    prefix = "heads.bnneck." if old else "heads.bottleneck.0."
    trunk, neck, rest, heads = {}, {}, [], []
    for name, tensor in state.items():
        if name.startswith("backbone."):
            trunk[name.removeprefix("backbone.")] = tensor
        elif name.startswith(prefix) and tensor.ndim == 1:
            neck[name.removeprefix(prefix)] = tensor
        elif name.startswith(("heads.weight", "heads.classifier.")):
            heads.append(_with_shape(name, tensor))
        elif not _is_imagenets(name, tensor):
            rest.append(name)
    stem: Stem = "torchvision" if old else "fastreid"
    return _File("fast-reid", trunk, neck, tuple(rest), tuple(heads), stem)


def _check_same_network(
    report: WeightsReport, file: _File, backbone: str, wanted: StateDict
) -> None:
    """Refuse a network whose tensors fit and which computes something else even so."""
    if len(file.prefixes) > 1:
        raise WeightsError(
            f"{report.source} holds the trunk of {backbone} several times, under "
            f"{', '.join(each or 'no prefix' for each in file.prefixes)}; save the state_dict() "
            "of the one that you want"
        )
    own = {name.partition(".")[0] for name in wanted}
    inside = any(name.partition(".")[0] in own for name in report.unexpected)
    if inside or (report.unexpected and file.trained_stem is not None):
        raise WeightsError(
            f"{report}. Its trunk has parts that {backbone} lacks, and was trained with them: "
            "choose another file"
        )
    if not _fits_stem(file.trained_stem, backbone):
        twin = with_stem(backbone, cast(Stem, file.trained_stem))
        known = f" ({file.names}'s names)" if file.names != "torchvision" else ""
        remedy = f"give --backbone {twin}" if twin in BACKBONES else "no backbone here has it"
        raise WeightsError(
            f"{report.source}{known} was trained with another stem than {backbone} has "
            f"(docs/models.md): {remedy}"
        )


def _fits_stem(trained: Stem | None, backbone: str) -> bool:
    """Whether a file of a stem may fill a backbone; the projects differ in stems of ResNets alone.

    OSNet's is everywhere that of its paper.
    """
    return trained is None or trained == stem_of(backbone) or backbone.startswith("osnet")


def _fits(neck: StateDict, net: ReIDNet) -> bool:
    wanted = {
        f"neck.{k}": v.shape for k, v in net.neck.state_dict().items() if not k.endswith(_COUNTER)
    }
    return {name: tensor.shape for name, tensor in neck.items()} == wanted


def _other_backbone(source: str, states: Mapping[str, StateDict]) -> str:
    """What to do about a file that another backbone, or none, was saved from."""
    fitting = []
    for name in BACKBONES:
        wanted = _shapes(name)
        report, file = _best(source, states, wanted)
        whole = report.complete and not report.unexpected
        stem = file.trained_stem or "torchvision"
        if _fits_stem(stem, name) and (whole or _signature(file.trunk) == _signature(wanted)):
            fitting.append(name)
    if fitting:
        return f"give --backbone {' or '.join(fitting)}, or another file"
    names = [name for state in states.values() for name in state]
    for pattern, network in _OTHER_NETWORKS.items():
        if any(re.search(pattern, name) for name in names):
            return f"it is {network}, which no backbone here is; choose another file"
    return "no backbone here has these tensors; choose another file"


@cache
def _shapes(backbone: str) -> StateDict:
    with torch.device("meta"):
        return _without_counters(build_backbone(backbone)[0].state_dict())


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
        if tensor.is_meta:
            raise WeightsError(
                f"{source}: {name} holds no values, only a shape (device meta); save the network "
                "after its weights are loaded"
            )
        if tensor.is_quantized:
            raise WeightsError(
                f"{source}: {name} is quantized ({str(tensor.dtype).removeprefix('torch.')}); give "
                "the checkpoint from before it was quantized"
            )
        bad = not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all())
        if bad or (name.endswith("running_var") and bool((tensor < 0).any())):
            raise WeightsError(
                f"{source}: {name} holds NaN, infinity or negative variances; download it again"
            )
