from __future__ import annotations

import copy
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch
from safetensors.torch import save_file

from models.backbones.net import ReIDNet
from models.backbones.weights import (
    StateDict,
    load_weights,
    torchvision_state_dict,
)
from models.errors import WeightsError

REAL_DATA = Path(
    os.environ.get("RESIGHT_REAL_DATA", Path(__file__).parents[3].parent / "shared" / "data")
)
REAL_WEIGHTS = REAL_DATA / "weights" / "mobilenetv2_imagenet.pt"


SOME = "features.1.conv.0.0.weight"


@pytest.fixture
def net() -> ReIDNet:
    torch.manual_seed(0)
    return ReIDNet("mobilenet_v2", classes=3)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A published-looking state dict: another seed's trunk, with a classifier."""
    torch.manual_seed(1)
    trunk = dict(ReIDNet("mobilenet_v2").backbone.state_dict())
    head = {"classifier.1.weight": torch.zeros(10, 1280), "classifier.1.bias": torch.zeros(10)}
    return trunk | head


def prefixed(state: StateDict) -> Any:
    return {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}


def without_counters(state: StateDict) -> Any:
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


def renamed(state: StateDict) -> Any:
    """Other names, same order and shapes."""
    named = [(f"part{i}.{k.rpartition('.')[2]}", v) for i, (k, v) in enumerate(state.items())]
    return OrderedDict(named[:-2])


def save(state: Any, path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("w.pth", dict),
        ("w.pt", without_counters),
        ("w.pth.tar", prefixed),
        ("w.safetensors", dict),
        ("w.safetensors", without_counters),
    ],
)
def test_by_name(
    net: ReIDNet, state: StateDict, tmp_path: Path, name: str, shape: Callable[[Any], Any]
) -> None:
    head = copy.deepcopy({k: v for k, v in net.state_dict().items() if "backbone" not in k})
    report = load_weights(net, save(shape(state), tmp_path / name))
    assert report.rule == "name"
    assert report.complete
    assert (report.missing, report.unexpected, report.shape_mismatch) == ((), (), ())
    loaded = net.backbone.state_dict()
    for key in report.matched:
        assert torch.equal(loaded[key], state[key]), key
    assert {k for k in loaded if not k.endswith("tracked")} == set(report.matched)
    for key, value in head.items():
        assert torch.equal(net.state_dict()[key], value)


def test_by_order(net: ReIDNet, state: StateDict, tmp_path: Path) -> None:
    report = load_weights(net, save(renamed(state), tmp_path / "w.pth"))
    assert report.rule == "order"
    loaded = net.backbone.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in report.matched)
    assert "by order" in str(report)


def test_extra_tensors_are_reported(net: ReIDNet, state: StateDict, tmp_path: Path) -> None:
    path = save({**state, "head.weight": torch.zeros(3)}, tmp_path / "w.pth")
    report = load_weights(net, path)
    assert report.unexpected == ("head.weight",)
    assert "unexpected: head.weight" in str(report)


def spoil(state: StateDict, kind: str) -> Any:
    changed = dict(state)
    if kind == "one missing":
        del changed[SOME]
    if kind == "one of another shape":
        changed[SOME] = torch.zeros(32, 1, 1, 1)
    if kind == "nothing in common":
        changed = {"a.weight": torch.zeros(3), "b.bias": torch.zeros(3)}
    if kind == "only a classifier":
        changed = {k: v for k, v in state.items() if k.startswith("classifier.")}
    if kind == "renamed and one missing":
        changed = renamed({k: v for k, v in state.items() if k != SOME})
    if kind == "renamed in another order":
        changed = OrderedDict(reversed(renamed(state).items()))
    if kind == "nan":
        changed[SOME] = torch.full_like(changed[SOME], float("nan"))
    if kind == "negative variance":
        changed["features.0.1.running_var"] = -changed["features.0.1.running_var"]
    if kind == "whole numbers":
        changed[SOME] = changed[SOME].to(torch.int64)
    if kind == "empty":
        changed = {}
    if kind == "list":
        return list(changed.values())
    if kind == "not tensors":
        return {"weight": 3}
    return changed


@pytest.mark.parametrize(
    "kind",
    [
        "one missing",
        "one of another shape",
        "nothing in common",
        "only a classifier",
        "renamed and one missing",
        "renamed in another order",
        "nan",
        "negative variance",
        "whole numbers",
        "empty",
        "list",
        "not tensors",
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_loaded(
    net: ReIDNet, state: StateDict, tmp_path: Path, kind: str
) -> None:
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(WeightsError):
        load_weights(net, save(spoil(state, kind), tmp_path / "w.pth"))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.filterwarnings("ignore:.*uantiz", "ignore:TypedStorage")
def test_tensors_without_values_or_quantized_are_named(
    net: ReIDNet, state: StateDict, tmp_path: Path
) -> None:
    empty = {name: tensor.to("meta") for name, tensor in state.items()}
    with pytest.raises(WeightsError, match="weight holds no values, only a shape"):
        load_weights(net, save(empty, tmp_path / "meta.pth"))
    small = {**state, SOME: torch.quantize_per_tensor(state[SOME], 0.1, 0, torch.qint8)}
    with pytest.raises(WeightsError, match=rf"{SOME} is quantized \(qint8\)"):
        load_weights(net, save(small, tmp_path / "small.pth"))


def test_the_refusal_names_what_does_not_fit(
    net: ReIDNet, state: StateDict, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=f"missing: {SOME}"):
        load_weights(net, save(spoil(state, "one missing"), tmp_path / "w.pth"))


def test_ibn_nets_own_names(tmp_path: Path) -> None:
    """As in IBN-Net's release: bn1.IN and bn1.BN in stages 1-3, bn1 in stage 4, fc."""
    torch.manual_seed(1)
    given = dict(ReIDNet("resnet18_ibn_a").backbone.state_dict())
    assert {"layer1.0.bn1.IN.weight", "layer3.1.bn1.BN.running_var", "layer4.0.bn1.weight"} <= set(
        given
    )
    path = save(prefixed({**given, "fc.weight": torch.zeros(10, 512)}), tmp_path / "ibn.pth")
    net = ReIDNet("resnet18_ibn_a")
    assert load_weights(net, path).complete
    assert all(torch.equal(value, given[key]) for key, value in net.backbone.state_dict().items())
    with pytest.raises(WeightsError, match=r"missing: layer1\.0\.bn1\.weight"):
        load_weights(ReIDNet("resnet18"), path)


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.mark.touch, ())


def test_files_that_hold_code_are_not_run(net: ReIDNet, tmp_path: Path) -> None:
    torch.save({"state_dict": Evil(tmp_path / "unpickled")}, tmp_path / "new.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Evil(tmp_path / "unpickled")))
    for name in ("new.pth", "old.pth"):
        with pytest.raises(WeightsError):
            load_weights(net, tmp_path / name)
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80", None])
def test_unreadable_files(net: ReIDNet, tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        load_weights(net, tmp_path / name)


@pytest.mark.parametrize(("content", "why"), [(b"", "it is empty"), (b"\x80", r"\w")])
def test_an_unreadable_file_has_a_reason(
    net: ReIDNet, tmp_path: Path, content: bytes, why: str
) -> None:
    (tmp_path / "w.pth.tar").write_bytes(content)
    with pytest.raises(WeightsError, match=rf"cannot be read \({why}.*\); download"):
        load_weights(net, tmp_path / "w.pth.tar")


def test_download_by_name(state: StateDict) -> None:
    net = ReIDNet("mobilenet_v2")
    asked: list[str] = []

    def download(backbone: str) -> StateDict:
        asked.append(backbone)
        return state

    report = load_weights(net, "torchvision", download=download)
    assert asked == ["mobilenet_v2"]
    assert report.source == "torchvision"
    assert torch.equal(net.backbone.state_dict()[SOME], state[SOME])


def test_torchvision_has_no_ibn_weights() -> None:
    with pytest.raises(WeightsError, match="IBN-Net"):
        torchvision_state_dict("resnet50_ibn_a")


@pytest.mark.real_data
@pytest.mark.skipif(not REAL_WEIGHTS.exists(), reason=f"no {REAL_WEIGHTS}: real weights absent")
def test_real_mobilenet_weights_are_mapped_right() -> None:
    net = ReIDNet("mobilenet_v2").eval()
    report = load_weights(net, REAL_WEIGHTS)
    assert report.rule == "order"
    assert len(report.matched) == 52 * 5  # 52 convolutions, each with a batch norm of 4 tensors
    # A wrong pairing of equal shapes would break the statistics: with the right one every batch
    # norm turns real-looking input into activations of unit scale.
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(4, 3, 8, 4)).astype(np.float32)
    x = torch.nn.functional.interpolate(torch.from_numpy(coarse), scale_factor=8, mode="bilinear")
    scales: list[float] = []
    for module in net.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(
                lambda m, i, o: scales.append(
                    float(((i[0] - m.running_mean[:, None, None]).pow(2).mean((0, 2, 3))
                           / (m.running_var + m.eps)).median())
                )
            )  # fmt: skip
    with torch.no_grad():
        features = net(x).pooled
    assert 0.2 < float(np.median(scales)) < 5
    assert torch.isfinite(features).all()
    unit = torch.nn.functional.normalize(features, dim=1)
    cosine = unit @ unit.T
    assert cosine.fill_diagonal_(0).max() < 0.98
