"""Attention and domain branch of DAAL: by hand, as properties, against a reference, pinned."""

from __future__ import annotations

import math
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch
from torch import nn

from models.backbones.attention import START, DomainAttention, DomainBranch
from models.backbones.net import ReIDNet

C = 32


def feature_map(rows: int = 3, h: int = 4, w: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, C, h, w, generator=generator).relu()


def lively(seed: int = 0) -> DomainAttention:
    """An attention whose norms do something, in eval mode."""
    torch.manual_seed(seed)
    attention = DomainAttention(C)
    for module in attention.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.5)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return attention.eval()


def norm(x: float, bn: nn.BatchNorm2d, k: int) -> float:
    mean, var = float(bn.running_mean[k]), float(bn.running_var[k])
    return (x - mean) / math.sqrt(var + bn.eps) * float(bn.weight[k]) + float(bn.bias[k])


def bilinear(small: list[list[float]], y: int, x: int, h: int, w: int) -> float:
    """Value of a resized grid at (y, x), cell centers on cell centers."""
    rows, columns = len(small), len(small[0])
    v = min(max((y + 0.5) * rows / h - 0.5, 0), rows - 1)
    u = min(max((x + 0.5) * columns / w - 0.5, 0), columns - 1)
    top, left = min(int(v), rows - 1), min(int(u), columns - 1)
    bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
    dv, du = v - top, u - left
    above = (1 - du) * small[top][left] + du * small[top][right]
    below = (1 - du) * small[bottom][left] + du * small[bottom][right]
    return (1 - dv) * above + dv * below


def reference(attention: DomainAttention, one: torch.Tensor) -> torch.Tensor:
    """Figure 3 for one map (C,h,w), a number at a time."""
    conv, bn1, _ = list[Any](attention.spatial)
    down, bn2, _, up, bn3, _ = list[Any](attention.channel)
    _, h, w = one.shape
    half = C // 2
    spatial = torch.zeros(half, h, w)
    for k in range(half):
        small = [[0.0] * ((w + 1) // 2) for _ in range((h + 1) // 2)]
        for i in range(len(small)):
            for j in range(len(small[0])):
                total = 0.0
                for channel in (0, 1):  # kernel k sees channels 2k and 2k+1
                    for dy in range(3):
                        for dx in range(3):
                            y, x = 2 * i + dy - 1, 2 * j + dx - 1
                            if 0 <= y < h and 0 <= x < w:
                                total += float(
                                    conv.weight[k, channel, dy, dx] * one[2 * k + channel, y, x]
                                )
                small[i][j] = max(norm(total, bn1, k), 0.0)
        for y in range(h):
            for x in range(w):
                spatial[k, y, x] = bilinear(small, y, x, h, w)
    out = torch.zeros(C, h, w)
    for y in range(h):
        for x in range(w):
            low = [
                max(norm(float(down.weight[m, :, 0, 0] @ spatial[:, y, x]), bn2, m), 0.0)
                for m in range(C // 16)
            ]
            for c in range(C):
                z = norm(
                    math.fsum(float(up.weight[c, m, 0, 0]) * low[m] for m in range(len(low))),
                    bn3,
                    c,
                )
                out[c, y, x] = 1 / (1 + math.exp(-z))
    return out


def test_attention_equals_the_reference() -> None:
    attention = lively()
    maps = feature_map(rows=2, h=5, w=3)
    with torch.no_grad():
        found = attention(maps)
        for one, expected in zip(maps, found, strict=True):
            torch.testing.assert_close(reference(attention, one), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("h", "w"), [(24, 8), (7, 3), (2, 1), (1, 1)])
def test_attention_is_as_large_as_the_map_and_within_0_and_1(h: int, w: int) -> None:
    with torch.no_grad():
        found = lively()(feature_map(2, h, w))
    assert found.shape == (2, C, h, w)
    assert bool(((found > 0) & (found < 1)).all())
    assert float(found.std()) > 0.05


def test_pinned_attention() -> None:
    with torch.no_grad():
        maps = torch.arange(C * 6, dtype=torch.float32).sin().reshape(1, C, 3, 2)
        attention = DomainAttention(C).eval()
        for number, parameter in enumerate(attention.parameters()):
            values = (torch.arange(parameter.numel(), dtype=torch.float32) + number).cos()
            parameter.copy_(values.reshape(parameter.shape))
        found = attention(maps)
    assert float(found.mean()) == pytest.approx(0.503566, abs=1e-5)
    assert float(found[0, 5, 1, 0]) == pytest.approx(0.672687, abs=1e-5)


def test_branches_on_three_images_by_hand() -> None:
    """A = 3/4 everywhere: the shared map is 3/4 of the map, the specific one the rest."""
    maps = torch.stack([torch.full((C, 1, 2), float(n)) for n in (1, 2, 4)])
    attention = torch.full_like(maps, 0.75)
    branch = DomainBranch(C)
    with torch.no_grad():
        branch.classifier.weight.copy_(torch.stack([torch.ones(C), torch.zeros(C)]))
        branch.classifier.bias.copy_(torch.tensor([0.0, 0.5]))
        logits = branch(maps, attention)
        whole = branch(maps, None)
    # GAP((1 - 3/4) n) = n/4 in each of 32 channels
    assert logits.tolist() == [[8, 0.5], [16, 0.5], [32, 0.5]]
    assert whole.tolist() == [[32, 0.5], [64, 0.5], [128, 0.5]]


def test_shared_and_specific_maps_add_up_to_the_map() -> None:
    """Equations (1) and (2), seen through one linear head."""
    torch.manual_seed(0)
    branch = DomainBranch(C)
    maps, attention = feature_map(), lively()(feature_map())
    shared, specific = branch(maps, 1 - attention), branch(maps, attention)
    torch.testing.assert_close(shared + specific - branch.classifier.bias, branch(maps, None))


def test_independent_attention_pays_no_heed_to_the_shared_one() -> None:
    torch.manual_seed(0)
    branch = DomainBranch(C, independent=True).eval()
    maps = feature_map()
    other = branch(maps, torch.rand_like(maps))
    assert torch.equal(branch(maps, None), other)
    assert branch.attention is not None
    expected = branch.classifier((branch.attention(maps) * maps).mean(dim=(2, 3)))
    torch.testing.assert_close(other, expected)


@pytest.mark.parametrize("start", [0.5, START, 0.97])
def test_a_new_attention_is_near_its_start_and_every_layer_learns(start: float) -> None:
    torch.manual_seed(0)
    attention = DomainAttention(C, start).train()
    found = attention(feature_map(rows=8))
    assert float(found.mean()) == pytest.approx(start, abs=0.01)
    assert 0 < float(found.detach().std()) < 0.05
    (found * torch.randn_like(found)).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in attention.parameters())


def test_a_trained_network_keeps_its_embeddings_when_attention_is_added() -> None:
    torch.manual_seed(0)
    net = ReIDNet("resnet18")
    images = torch.randn(16, 3, 64, 32)
    net.train()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    with torch.no_grad():
        net(images)
        before, long = net.eval().embed(images), net(images).neck
        net.add_attention(0.7)
        after, still = net.eval().embed(images), net(images).neck
    assert net.attention is not None
    spread = float((before[1:] * before[:-1]).sum(1).mean())
    assert float((before * after).sum(1).min()) > 0.98
    assert float(still.norm() / long.norm()) == pytest.approx(1, abs=0.05), "nor do lengths change"
    assert spread < 0.9, "embeddings all alike would prove nothing"


def test_attention_is_part_of_the_network_only_if_asked() -> None:
    plain, attentive = ReIDNet("resnet18"), ReIDNet("resnet18", attention=True)
    assert not any(key.startswith("attention.") for key in plain.state_dict())
    assert any(key.startswith("attention.") for key in attentive.state_dict())
    attention = attentive.eval().attention
    assert attention is not None
    images = torch.randn(2, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    maps = attentive.backbone(images)
    torch.testing.assert_close(attentive.feature_map(images), attention(maps) * maps)
    torch.testing.assert_close(attentive(images).pooled, (attention(maps) * maps).mean(dim=(2, 3)))


@pytest.mark.parametrize(("channels", "start"), [(33, 0.5), (8, 0.5), (C, 0.0), (C, 1.0)])
def test_what_does_not_fit_is_refused(channels: int, start: float) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        DomainAttention(channels, start)
