"""OSNet: size and cost as published, equations by hand, names as in the public checkpoints."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.backbones.net import ReIDNet
from models.backbones.osnet import Gate, InstanceNorm, OmniScaleBlock
from models.backbones.trunks import BACKBONES, build_backbone
from models.backbones.weights import load_weights
from models.errors import WeightsError

REAL_DATA = Path(
    os.environ.get("RESIGHT_REAL_DATA", Path(__file__).parents[3].parent / "shared" / "data")
)
REAL_WEIGHTS = REAL_DATA / "weights"
OSNETS = [name for name in BACKBONES if name.startswith("osnet")]
FEATURES = 512
"""Of the public networks' `fc`, behind the pooling."""

NORM = ("weight", "bias", "running_mean", "running_var")
WIDTHS = {"osnet_x0_25": 16, "osnet_x0_5": 32, "osnet_x0_75": 48, "osnet_x1_0": 64}
PUBLISHED = {
    "osnet_x0_25": (0.2, 82.3),
    "osnet_x0_5": (0.6, 272.9),
    "osnet_x0_75": (1.3, 571.8),
    "osnet_x1_0": (2.2, 978.9),
}
"""Millions of parameters, and of multiplications of an image of 256x128, with `fc`."""


def plain(name: str) -> str:
    """The OSNet of the same width, which other norms cost nothing beside."""
    return name.replace("_ain", "").replace("_ibn", "")


def lively(net: nn.Module) -> nn.Module:
    """Norms and biases as training leaves them, so that nothing cancels out."""
    torch.manual_seed(3)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias)
    return net.eval()


def head(channels: int, classes: int = 7) -> nn.Module:
    """What the public networks have behind the pooling."""
    fc = nn.Sequential(nn.Linear(channels, FEATURES), nn.BatchNorm1d(FEATURES), nn.ReLU())
    return nn.Sequential(OrderedDict(fc=fc, classifier=nn.Linear(FEATURES, classes)))


@pytest.mark.parametrize("name", OSNETS)
def test_size_and_cost_are_the_papers(name: str) -> None:
    with torch.device("meta"):
        trunk, channels = build_backbone(name)
        with FlopCounterMode(display=False) as counter:
            trunk.eval()(torch.zeros(1, 3, 256, 128))
        fc = head(channels).get_submodule("fc")
    parameters = sum(p.numel() for module in (trunk, fc) for p in module.parameters())
    multiplications = counter.get_total_flops() / 2 + channels * FEATURES
    found = (round(parameters / 1e6, 1), round(multiplications / 1e6, 1))
    assert found == PUBLISHED[plain(name)]


def test_gate_by_hand() -> None:
    """Two images: means 1 and 3 of the first channel; weights sigmoid(2 ReLU(m - 2) + 0.5)."""
    gate = Gate(16)
    for layer in (gate.fc1, gate.fc2):
        nn.init.zeros_(layer.weight)
    nn.init.constant_(gate.get_parameter("fc1.bias"), -2.0)
    nn.init.constant_(gate.get_parameter("fc2.bias"), 0.5)
    with torch.no_grad():
        gate.fc1.weight[0, 0] = 1
        gate.fc2.weight[:, 0] = 2
    x = torch.ones(2, 16, 1, 2)
    x[:, 0, 0] = torch.tensor([[0.0, 2.0], [2.0, 4.0]])
    weight = torch.sigmoid(torch.tensor([0.5, 2.5]))
    torch.testing.assert_close(gate(x), weight.reshape(2, 1, 1, 1) * x)


def batch_norm(x: torch.Tensor, norm: nn.Module) -> torch.Tensor:
    mean, var = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    return F.batch_norm(x, mean, var, norm.get_parameter("weight"), norm.get_parameter("bias"))


@pytest.mark.parametrize("ain", [False, True])
@pytest.mark.parametrize("instance_norm", ["", "branch", "sum"])
@pytest.mark.parametrize("inputs", [64, 32])
def test_block_by_its_equation(ain: bool, instance_norm: InstanceNorm, inputs: int) -> None:
    block = lively(OmniScaleBlock(inputs, 64, ain=ain, instance_norm=instance_norm))
    get = block.get_parameter
    x = torch.randn(2, inputs, 6, 4)

    def lite(x: torch.Tensor, name: str) -> torch.Tensor:
        x = F.conv2d(x, get(f"{name}.conv1.weight"))
        x = F.conv2d(x, get(f"{name}.conv2.weight"), padding=1, groups=16)
        return F.relu(batch_norm(x, block.get_submodule(f"{name}.bn")))

    inner = F.relu(
        batch_norm(F.conv2d(x, get("conv1.conv.weight")), block.get_submodule("conv1.bn"))
    )
    mixed = torch.zeros_like(inner)
    for t in (1, 2, 3, 4):
        stream = inner
        for n in range(t):
            other = f"conv2{' abcd'[t]}" + ("" if t == 1 else f".{n}")
            stream = lite(stream, f"conv2.{t - 1}.layers.{n}" if ain else other)
        pooled = stream.mean((2, 3), keepdim=True)
        hidden = F.relu(F.conv2d(pooled, get("gate.fc1.weight"), get("gate.fc1.bias")))
        gate = torch.sigmoid(F.conv2d(hidden, get("gate.fc2.weight"), get("gate.fc2.bias")))
        mixed = mixed + gate * stream
    out = F.conv2d(mixed, get("conv3.conv.weight"))
    if instance_norm == "branch":
        out = F.instance_norm(out, weight=get("IN.weight"), bias=get("IN.bias"))
    else:
        out = batch_norm(out, block.get_submodule("conv3.bn"))
    skip = x
    if inputs != 64:
        skip = F.conv2d(x, get("downsample.conv.weight"))
        skip = batch_norm(skip, block.get_submodule("downsample.bn"))
    with torch.no_grad():
        total = out + skip
        if instance_norm == "sum":
            total = F.instance_norm(total, weight=get("IN.weight"), bias=get("IN.bias"))
        torch.testing.assert_close(block(x), F.relu(total))


def test_ibn_normalizes_images_in_the_stem_and_behind_both_blocks_of_the_first_stage() -> None:
    with torch.device("meta"):
        trunk, _ = build_backbone("osnet_ibn_x1_0")
    found = [key for key, m in trunk.named_modules() if isinstance(m, nn.InstanceNorm2d)]
    assert found == ["conv1.bn", "conv2.0.IN", "conv2.1.IN"]
    blocks = [m for m in trunk.modules() if isinstance(m, OmniScaleBlock)]
    assert [block.normalizes_sum for block in blocks] == [True, True, False, False, False, False]


@pytest.mark.parametrize("name", [name for name in OSNETS if "ain" in name])
def test_ain_normalizes_images_where_the_search_put_it(name: str) -> None:
    with torch.device("meta"):
        trunk, _ = build_backbone(name)
    found = [key for key, m in trunk.named_modules() if isinstance(m, nn.InstanceNorm2d)]
    assert found == ["conv1.bn", "conv2.0.IN", "conv2.1.IN", "conv3.1.IN", "conv4.0.IN"]
    batch = {key for key, m in trunk.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {"conv3.0.conv3.bn", "conv4.1.conv3.bn", "conv5.bn"} <= batch
    assert not {f"{key.removesuffix('IN')}conv3.bn" for key in found[1:]} & batch


# ---------------------------------------------------------------- the public checkpoints' tensors


def names_of_norm(prefix: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for kind in NORM:
        yield f"{prefix}.{kind}", (channels,)


def names_of_unit(prefix: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{prefix}.conv.weight", (outputs, inputs, 1, 1)
    yield from names_of_norm(f"{prefix}.bn", outputs)


def names_of_block(
    prefix: str, inputs: int, outputs: int, streams: list[str], *, instance: InstanceNorm
) -> Iterator[tuple[str, tuple[int, ...]]]:
    inner, hidden = outputs // 4, outputs // 64
    yield from names_of_unit(f"{prefix}.conv1", inputs, inner)
    for light in streams:
        yield f"{prefix}.{light}.conv1.weight", (inner, inner, 1, 1)
        yield f"{prefix}.{light}.conv2.weight", (inner, 1, 3, 3)
        yield from names_of_norm(f"{prefix}.{light}.bn", inner)
    yield f"{prefix}.gate.fc1.weight", (hidden, inner, 1, 1)
    yield f"{prefix}.gate.fc1.bias", (hidden,)
    yield f"{prefix}.gate.fc2.weight", (inner, hidden, 1, 1)
    yield f"{prefix}.gate.fc2.bias", (inner,)
    if instance == "branch":
        yield f"{prefix}.conv3.conv.weight", (outputs, inner, 1, 1)
    else:
        yield from names_of_unit(f"{prefix}.conv3", inner, outputs)
    if instance:
        yield f"{prefix}.IN.weight", (outputs,)
        yield f"{prefix}.IN.bias", (outputs,)
    if inputs != outputs:
        yield from names_of_unit(f"{prefix}.downsample", inputs, outputs)


def public_tensors(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchreid's checkpoint, head included, counters of batches not."""
    ain = "ain" in name
    base = WIDTHS[plain(name)]
    named = ["conv2a"] + [f"conv2{x}.{n}" for t, x in ((2, "b"), (3, "c"), (4, "d"))
                          for n in range(t)]  # fmt: skip
    listed = [f"conv2.{t}.layers.{n}" for t in range(4) for n in range(t + 1)]
    streams = listed if ain else named
    norms: dict[str, InstanceNorm] = {}
    if ain:
        norms = dict.fromkeys(("conv2.0", "conv2.1", "conv3.1", "conv4.0"), "branch")
    elif "ibn" in name:
        norms = dict.fromkeys(("conv2.0", "conv2.1"), "sum")
    found: dict[str, tuple[int, ...]] = {"conv1.conv.weight": (base, 3, 7, 7)}
    stem = dict(names_of_norm("conv1.bn", base))
    found |= {k: v for k, v in stem.items() if name == plain(name) or "running" not in k}
    inputs = base
    for stage, times in (("conv2", 4), ("conv3", 6), ("conv4", 8)):
        outputs = base * times
        for block in (f"{stage}.0", f"{stage}.1"):
            norm = norms.get(block, "")
            found |= names_of_block(block, inputs, outputs, streams, instance=norm)
            inputs = outputs
        if stage != "conv4":
            between = stage.replace("conv", "pool") + ".0" if ain else f"{stage}.2.0"
            found |= names_of_unit(between, outputs, outputs)
    found |= names_of_unit("conv5", inputs, inputs)
    found |= {"fc.0.weight": (FEATURES, inputs), "fc.0.bias": (FEATURES,)}
    found |= names_of_norm("fc.1", FEATURES)
    return found | {"classifier.weight": (7, FEATURES), "classifier.bias": (7,)}


@pytest.mark.parametrize("name", OSNETS)
def test_names_and_shapes_are_the_public_checkpoints(name: str) -> None:
    with torch.device("meta"):
        trunk, channels = build_backbone(name)
    everything = {**trunk.state_dict(), **head(channels).state_dict()}
    ours = {k: tuple(v.shape) for k, v in everything.items() if not k.endswith("tracked")}
    assert ours == public_tensors(name)


def public_state(name: str) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint, no two alike."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.rand(shape, generator=generator) + 0.1
        for key, shape in public_tensors(name).items()
    }


@pytest.mark.parametrize(
    ("name", "wrapped"), [(name, number % 2 == 1) for number, name in enumerate(OSNETS)]
)
def test_public_checkpoints_load_by_name(name: str, wrapped: bool, tmp_path: Path) -> None:
    """The zoo's bare state dicts, and what torchreid saves while it trains."""
    state = public_state(name)
    content = {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 60}
    path = tmp_path / f"{name}.pth.tar"
    torch.save(content if wrapped else state, path)
    net = ReIDNet(name)
    report = load_weights(net, path)
    assert report.complete
    assert report.rule == "name"
    assert report.unexpected == ()
    assert not report.neck
    trunk = {k: v for k, v in net.backbone.state_dict().items() if not k.endswith("tracked")}
    assert len(trunk) == len(report.matched) == len(state) - 8
    for key, tensor in trunk.items():
        assert torch.equal(tensor, state[key]), key


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("osnet_x0_5", "osnet_x0_25"),
        ("osnet_ain_x1_0", "osnet_x1_0"),
        ("osnet_x1_0", "osnet_ain_x1_0"),
        ("osnet_ibn_x1_0", "osnet_x1_0"),
        ("osnet_x1_0", "osnet_ibn_x1_0"),
    ],
)
def test_another_osnet_is_refused(given: str, wanted: str, tmp_path: Path) -> None:
    torch.save(public_state(given), tmp_path / "w.pth")
    net = ReIDNet(wanted)
    before = net.backbone.get_parameter("conv5.conv.weight").clone()
    with pytest.raises(WeightsError, match=f"not the state dict of {wanted}.*{given}"):
        load_weights(net, tmp_path / "w.pth")
    assert torch.equal(before, net.backbone.get_parameter("conv5.conv.weight"))


def test_fastreids_osnet_comes_with_its_neck(tmp_path: Path) -> None:
    """Its ResNets have stems of their own, its OSNet has the paper's."""
    state = public_state("osnet_x0_25")
    trunk = {f"backbone.{k}": v for k, v in state.items() if not k.startswith(("fc", "class"))}
    neck = {f"heads.bottleneck.0.{kind}": torch.rand(128) + 0.1 for kind in NORM}
    weight = {"heads.weight": torch.rand(7, 128)}
    torch.save({"model": {**trunk, **neck, **weight}}, tmp_path / "bagtricks_osnet.pth")
    net = ReIDNet("osnet_x0_25")
    report = load_weights(net, tmp_path / "bagtricks_osnet.pth")
    assert (report.names, report.neck, report.unexpected) == ("fast-reid", True, ())
    assert torch.equal(net.neck.weight, neck["heads.bottleneck.0.weight"])


def test_torchvision_has_no_osnet() -> None:
    with pytest.raises(WeightsError, match="no weights for osnet_x1_0; download torchreid's"):
        load_weights(ReIDNet("osnet_x1_0"), "torchvision")


def test_weights_follow_the_seed() -> None:
    def first(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return build_backbone("osnet_x0_25")[0].get_parameter("conv1.conv.weight")

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


# ------------------------------------------------------------------------------------- real files


def backbone_of(path: Path) -> str:
    """By the file's name, as the zoo gives it: osnet_x0_25_msmt17.pth."""
    return max((name for name in OSNETS if path.name.startswith(name)), key=len)


def real_files(*suffixes: str) -> list[Path]:
    found = (path for suffix in suffixes for path in REAL_WEIGHTS.glob(f"osnet_*{suffix}"))
    return sorted(path for path in found if any(path.name.startswith(n) for n in OSNETS))


@pytest.mark.skipif(not real_files(".pth", ".pt"), reason="no public checkpoints of OSNet")
def test_real_checkpoints_fill_the_trunk() -> None:
    for path in real_files(".pth", ".pt"):
        report = load_weights(ReIDNet(backbone_of(path)), path)
        assert (report.rule, report.unexpected) == ("name", ()), path


def folded_into(trunk: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Fill a trunk from an ONNX file, whose exporter has folded norms into convolutions."""
    state = trunk.state_dict()
    for key, tensor in state.items():
        module, _, kind = key.rpartition(".")
        place = module.removesuffix("bn")
        conv = f"{place}conv2" if f"{place}conv2.weight" in state else f"{place}conv"
        if kind == "running_var":
            tensor.fill_(1 - 1e-5)
        elif module.endswith("bn") and kind == "bias":
            tensor.copy_(weights[f"{conv}.weight_bias"])
        elif module.endswith("bn") and kind == "weight":
            tensor.fill_(1)
        elif key in weights:
            tensor.copy_(weights[key])
        else:
            assert kind in ("running_mean", "num_batches_tracked"), key
    trunk.load_state_dict(state)


@pytest.mark.skipif(not real_files(".onnx"), reason="no public OSNet in ONNX")
def test_real_onnx_files_give_our_vectors() -> None:
    """With the file's own `fc` behind our pooling. Of files that name their tensors."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    for path in real_files(".onnx"):
        graph = onnx.load(path).graph
        arrays = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
        if "conv1.conv.weight" not in arrays:
            continue
        weights = {key: torch.from_numpy(array.copy()) for key, array in arrays.items()}
        net = ReIDNet(backbone_of(path)).eval()
        folded_into(net.backbone, weights)
        images = torch.rand(3, 3, 256, 128, generator=torch.Generator().manual_seed(0)) * 4 - 2
        with torch.no_grad():
            pooled = net(images).pooled
        ours = F.relu(F.linear(pooled, weights["fc.0.weight"], weights["fc.0.bias"])).numpy()
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (name,) = (each.name for each in session.get_inputs())
        theirs = [session.run(None, {name: images[[n]].numpy()})[0] for n in range(3)]
        np.testing.assert_allclose(ours, np.concatenate(theirs), atol=1e-4)
