from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch
from torch import nn

from models.backbones.trunks import (
    BACKBONES,
    IBN,
    Stem,
    build_backbone,
    refuse_small_images,
    stem_of,
    with_stem,
)
from models.errors import BackboneError
from models.torchvision_compat import torchvision

RESNETS = [name for name in BACKBONES if name.startswith("resnet")]
IBN_NETS = [name for name in BACKBONES if "_ibn_a" in name]
WIDTHS = {"0_25": 128, "0_5": 256, "0_75": 384, "1_0": 512}
"""Channels of an OSNet by what follows `_x` in its name."""


def test_the_names() -> None:
    assert set(BACKBONES) == {
        *(f"resnet{depth}{ibn}" for depth in (18, 34, 50) for ibn in ("", "_ibn_a")),
        *("resnet50_mmt", "resnet50_fastreid", "resnet50_ibn_a_fastreid"),
        "mobilenet_v2",
        *(f"osnet{kind}_x{width}" for kind in ("", "_ain") for width in WIDTHS),
        "osnet_ibn_x1_0",
    }


@pytest.mark.parametrize(
    ("name", "stem", "plain"),
    [
        ("resnet50", "torchvision", "resnet50"),
        ("resnet50_ibn_a", "torchvision", "resnet50_ibn_a"),
        ("mobilenet_v2", "torchvision", "mobilenet_v2"),
        ("resnet50_mmt", "mmt", "resnet50"),
        ("resnet50_ibn_a_fastreid", "fastreid", "resnet50_ibn_a"),
    ],
)
def test_stems_are_part_of_the_name(name: str, stem: Stem, plain: str) -> None:
    assert stem_of(name) == stem
    assert with_stem(name, "torchvision") == plain
    assert with_stem(plain, stem) == name
    assert with_stem(name, stem) == name


def stem_only(name: str, x: torch.Tensor) -> torch.Tensor:
    """What reaches the first stage when the stem's convolution and norm pass values on."""
    with torch.device("meta"):
        trunk, _ = build_backbone(name)
    children = dict(trunk.named_children())
    for key in ("relu", "maxpool"):
        if key in children:
            x = children[key](x)
    return x


def test_stems_by_hand() -> None:
    """Windows of 3 every 2: padded they start at -1, unpadded at 0; ReLU lifts what is below 0."""
    x = torch.tensor([[-9.0, -2.0, -1.0, 4.0, -3.0, -8.0]]).expand(6, 6).reshape(1, 1, 6, 6)
    for name, row in (
        ("resnet50", [0.0, 4.0, 4.0]),
        ("resnet50_mmt", [-2.0, 4.0, 4.0]),
        ("resnet50_fastreid", [0.0, 4.0, 0.0]),
    ):
        assert stem_only(name, x.clone()).tolist() == [[[row] * 3]], name


@pytest.mark.parametrize("name", BACKBONES)
def test_shapes(name: str) -> None:
    with torch.device("meta"):  # shapes only
        trunk, channels = build_backbone(name)
        out = trunk.eval()(torch.zeros(2, 3, 64, 32))
    stride = 32 if name == "mobilenet_v2" else 16
    expected = {"resnet5": 2048, "mobilen": 1280}.get(
        name[:7], WIDTHS.get(name.partition("_x")[2], 512)
    )
    assert channels == expected
    assert out.shape == (2, channels, 64 // stride, 32 // stride)


@pytest.mark.parametrize("name", RESNETS)
def test_last_stage_keeps_the_resolution(name: str) -> None:
    with torch.device("meta"):
        trunk, _ = build_backbone(name)
    strides = {
        key: module.stride for key, module in trunk.named_modules() if isinstance(module, nn.Conv2d)
    }
    assert {value for key, value in strides.items() if key.startswith("layer4")} == {(1, 1)}
    halving = [key for key, value in strides.items() if value == (2, 2)]
    assert [key.split(".")[0] for key in halving] == ["conv1", *["layer2"] * 2, *["layer3"] * 2]


@pytest.mark.parametrize("name", IBN_NETS)
def test_ibn_a_is_in_stages_1_to_3_and_nowhere_else(name: str) -> None:
    with torch.device("meta"):
        trunk, _ = build_backbone(name)
    found = {key for key, module in trunk.named_modules() if isinstance(module, IBN)}
    blocks = [2, 2, 2] if "18" in name else [3, 4, 6]
    expected = {f"layer{i + 1}.{j}.bn1" for i, count in enumerate(blocks) for j in range(count)}
    assert found == expected
    norm = trunk.get_submodule("layer2.0.bn1")
    assert isinstance(norm, IBN)
    assert norm.IN.weight.shape == norm.BN.weight.shape == norm.IN.bias.shape
    assert norm.IN.running_mean is None


@pytest.mark.parametrize("name", [*RESNETS, "mobilenet_v2"])
def test_names_of_weights_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        trunk, _ = build_backbone(name)
        plain = torchvision.models.get_model(
            with_stem(name, "torchvision").removesuffix("_ibn_a"), weights=None
        )
    theirs = {k for k in plain.state_dict() if not k.startswith(("fc.", "classifier."))}
    ours = set(trunk.state_dict())
    if "_ibn_a" in name:
        split = {k for k in ours if ".bn1.IN." in k or ".bn1.BN." in k}
        merged = {k.replace(".IN.", ".").replace(".BN.", ".") for k in split}
        ours = ours - split | merged
    assert ours == theirs


def test_plain_resnet_equals_torchvision_but_for_the_last_stride() -> None:
    trunk, _ = build_backbone("resnet18")
    theirs = torchvision.models.resnet18(weights=None)
    theirs.load_state_dict(trunk.state_dict(), strict=False)
    theirs.layer4[0].conv1.stride = theirs.layer4[0].downsample[0].stride = (1, 1)
    theirs.avgpool = theirs.fc = nn.Identity()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = theirs.eval()(x).reshape(2, 512, 2, 2)
        torch.testing.assert_close(trunk.eval()(x), expected)


def test_ibn_by_hand() -> None:
    # Channels 0-1: each image by its own mean and variance. Channels 2-3: by those of the batch.
    norm = IBN(4)
    nn.init.constant_(norm.IN.weight, 2.0)
    nn.init.constant_(norm.BN.bias, 3.0)
    x = torch.tensor([0.0, 2.0, 4.0, 8.0]).reshape(2, 1, 1, 2).expand(2, 4, 1, 2)
    y = norm(x)
    torch.testing.assert_close(y[0, 0], torch.tensor([[-2.0, 2.0]]), atol=1e-4, rtol=0)
    torch.testing.assert_close(y[1, 1], torch.tensor([[-2.0, 2.0]]), atol=1e-4, rtol=0)
    batch = (x[:, 2] - 3.5) / (8.75**0.5) + 3  # mean 3.5, variance (12.25+2.25+.25+20.25)/4
    torch.testing.assert_close(y[:, 2], batch, atol=1e-4, rtol=0)
    torch.testing.assert_close(y[:, 3], batch, atol=1e-4, rtol=0)


def test_ibn_with_an_odd_count_gives_the_rest_to_batch_norm() -> None:
    norm = IBN(5)
    assert (norm.IN.num_features, norm.BN.num_features) == (2, 3)
    assert norm(torch.randn(2, 5, 3, 3)).shape == (2, 5, 3, 3)


def test_weights_follow_the_seed() -> None:
    def first(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return build_backbone("mobilenet_v2")[0].get_parameter("features.0.0.weight")

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(BackboneError, match="resnet50_ibn_a"):
        build_backbone("resnet51")


@pytest.mark.parametrize(
    ("name", "height", "width"),
    [("osnet_x0_25", 16, 8), ("osnet_ain_x1_0", 16, 16), ("resnet18_ibn_a", 16, 16)],
)
def test_images_too_small_for_a_trunk_are_refused(name: str, height: int, width: int) -> None:
    with pytest.raises(BackboneError, match=f"{height}x{width} are too small for {name}"):
        refuse_small_images(name, height, width)


@pytest.mark.parametrize("name", ["resnet18_ibn_a", "mobilenet_v2", "osnet_ain_x1_0"])
def test_images_of_32x16_fit_every_kind_of_trunk(name: str) -> None:
    before = torch.get_rng_state()
    refuse_small_images(name, 32, 16)
    refuse_small_images(name, 256, 128)
    assert torch.equal(torch.get_rng_state(), before), "networks of a seed stay what they were"
