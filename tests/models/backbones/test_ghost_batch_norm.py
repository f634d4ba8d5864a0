"""Batch norm in groups: by hand, as a property, against a reference, pinned; and in whole nets."""

from __future__ import annotations

import copy
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.backbones.ghost_batch_norm import (
    GhostBatchNorm1d,
    GhostBatchNorm2d,
    group_batch_norm,
)
from models.backbones.net import ReIDNet
from models.errors import BackboneError


def maps(seed: int, images: int, channels: int = 3) -> torch.Tensor:
    """Images that differ in mean and spread, so that groups differ, too."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, channels, 4, 2, generator=generator)
    return (
        x * torch.rand(images, 1, 1, 1, generator=generator)
        + torch.arange(images)[:, None, None, None]
    )


def filled(norm: Any, seed: int = 7) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*norm.parameters(), norm.running_mean, norm.running_var):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return norm


def test_four_images_in_two_groups_by_hand() -> None:
    norm = GhostBatchNorm1d(1, group=2)
    out = norm(torch.tensor([[0.0], [2.0], [10.0], [14.0]]))
    # means 1 and 12, variances 1 and 4: every image is one deviation away from its group's mean
    assert out.flatten().tolist() == pytest.approx([-1, 1, -1, 1], abs=1e-4)
    # (1 + 12) / 2 = 6.5; without bias the variances are 2 and 8, their mean 5; momentum 0.1
    assert norm.running_mean.item() == pytest.approx(0.65)
    assert norm.running_var.item() == pytest.approx(0.9 + 0.5)
    assert norm.num_batches_tracked.item() == 1


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), images=st.integers(2, 9), batches=st.integers(1, 3))
def test_one_group_is_batch_norm_bit_for_bit(seed: int, images: int, batches: int) -> None:
    plain, ghost = filled(nn.BatchNorm2d(3)), filled(GhostBatchNorm2d(3, group=images))
    for number in range(batches):
        x = maps(seed + number, images)
        assert torch.equal(plain(x), ghost(x))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, ghost.state_dict()[name])


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), group=st.integers(2, 5), groups=st.integers(2, 4))
def test_groups_do_not_know_each_other(seed: int, group: int, groups: int) -> None:
    x = maps(seed, group * groups)
    norm = GhostBatchNorm2d(3, group)
    before = norm(x)
    each = before.detach().unflatten(0, (groups, group))
    torch.testing.assert_close(each.mean((1, 3, 4)), torch.zeros(groups, 3), atol=1e-4, rtol=0)
    changed = x.clone()
    changed[:group] *= 100
    assert torch.equal(norm(changed)[group:], before[group:])


@pytest.mark.parametrize("shape", [(12, 3), (12, 3, 4, 2)])
def test_equals_a_loop_over_groups(shape: tuple[int, ...]) -> None:
    kind = GhostBatchNorm1d if len(shape) == 2 else GhostBatchNorm2d
    norm = filled(kind(3, group=4))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = x.detach().clone().requires_grad_()
    gamma, beta = (p.detach().clone().requires_grad_() for p in (norm.weight, norm.bias))
    expected, means, variances = [], [], []
    for start in (0, 4, 8):
        part = y[start : start + 4]
        expected.append(F.batch_norm(part, None, None, gamma, beta, training=True))
        values = part.detach().transpose(0, 1).flatten(1)
        means.append(values.mean(1))
        variances.append(values.var(1, unbiased=True))
    old_mean, old_var = norm.running_mean.clone(), norm.running_var.clone()
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    out = norm(x)
    (out * weight).sum().backward()
    (torch.cat(expected) * weight).sum().backward()
    torch.testing.assert_close(out, torch.cat(expected))
    for ours, theirs in ((x, y), (norm.weight, gamma), (norm.bias, beta)):
        torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(norm.running_mean, 0.9 * old_mean + 0.1 * sum(means) / 3)
    torch.testing.assert_close(norm.running_var, 0.9 * old_var + 0.1 * sum(variances) / 3)


def test_pinned() -> None:
    norm = filled(GhostBatchNorm2d(3, group=2))
    out = norm(maps(0, 6))
    assert out[4, :, 0, 0].tolist() == pytest.approx([1.04688, 0.11817, -0.1287], abs=1e-4)
    assert norm.running_mean.tolist() == pytest.approx([0.88625, 1.276, 1.0321], abs=1e-4)
    assert norm.running_var.tolist() == pytest.approx([1.2551, 1.27628, 0.99405], abs=1e-4)


def test_eval_mode_is_batch_norm() -> None:
    plain, ghost = filled(nn.BatchNorm2d(3)).eval(), filled(GhostBatchNorm2d(3, group=4)).eval()
    x = maps(0, 5)
    assert torch.equal(plain(x), ghost(x)), "also where the batch is not a multiple of the group"
    assert torch.equal(plain.running_mean, ghost.running_mean)


def test_without_momentum_statistics_are_a_plain_average() -> None:
    norm = GhostBatchNorm1d(1, group=2)
    norm.momentum = None
    for low, high in ((0.0, 2.0), (4.0, 10.0)):
        norm(torch.tensor([[low], [low], [high], [high]]))
    assert norm.running_mean.item() == pytest.approx((1 + 7) / 2)


def test_a_part_of_a_group_is_refused() -> None:
    norm = GhostBatchNorm1d(2, group=4)
    before = norm.running_mean.clone()
    with pytest.raises(BackboneError, match=r"6 images .* groups of 4: choose batch\.ghost"):
        norm(torch.randn(6, 2))
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        norm(torch.randn(8, 2, 3, 3))
    assert (norm.running_mean == before).all()


@pytest.fixture
def net() -> ReIDNet:
    torch.manual_seed(0)
    return ReIDNet("resnet18_ibn_a", classes=3)


def test_every_batch_norm_of_a_net_and_no_instance_norm(net: ReIDNet) -> None:
    before = {name: type(module) for name, module in net.named_modules()}
    parameters = dict(net.named_parameters())
    group_batch_norm(net, 2)
    after = {name: type(module) for name, module in net.named_modules()}
    ghosts: dict[type[nn.Module], type[nn.Module]] = {
        nn.BatchNorm1d: GhostBatchNorm1d,
        nn.BatchNorm2d: GhostBatchNorm2d,
    }
    assert after == {name: ghosts.get(kind, kind) for name, kind in before.items()}
    assert before["backbone.layer1.0.bn1.BN"] is nn.BatchNorm2d
    assert net.neck.group == 2
    assert all(p is parameters[name] for name, p in net.named_parameters())
    assert not net.neck.bias.requires_grad


def test_a_net_in_groups_computes_each_group_alone(net: ReIDNet) -> None:
    x = torch.randn(4, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    alone = copy.deepcopy(net).train()
    group_batch_norm(net.train(), 2)
    together = net(x).pooled
    torch.testing.assert_close(together[:2], alone(x[:2]).pooled, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(together, alone(x).pooled, atol=1e-2)
    group_batch_norm(net, 0)
    assert torch.equal(net(x).pooled, alone(x).pooled), "and on whole batches again"


def test_state_dicts_fit_both_ways(net: ReIDNet) -> None:
    plain = copy.deepcopy(net)
    group_batch_norm(net, 2)
    x = torch.randn(4, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    net.train()(x)
    assert list(net.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(plain.eval().embed(x), net.eval().embed(x))
    net.load_state_dict(plain.state_dict())


def test_memory_format_and_copies_are_kept(net: ReIDNet) -> None:
    group_batch_norm(net, 2)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(4, 3, 32, 16).to(memory_format=torch.channels_last)
    out = net.train().backbone.bn1(net.backbone.conv1(x))
    assert out.is_contiguous(memory_format=torch.channels_last)
    twin = copy.deepcopy(net)
    assert isinstance(twin.neck, GhostBatchNorm1d)
    twin.neck.running_mean.fill_(5.0)
    assert not (net.neck.running_mean == 5.0).any()


@pytest.mark.parametrize("group", [-1, 1])
def test_groups_that_make_no_sense(net: ReIDNet, group: int) -> None:
    with pytest.raises(BackboneError, match=f"no batch-norm groups of {group}"):
        group_batch_norm(net, group)


def in_parts(norm: Any, x: torch.Tensor, parts: int) -> torch.Tensor:
    """What as many devices make of a batch, each with a copy of the norm but one set of numbers."""
    pieces = x.chunk(parts)
    axes = [axis for axis in range(x.ndim) if axis != 1]
    every = torch.stack([torch.stack(torch.var_mean(p, axes, correction=0)) for p in pieces])
    start = {name: value.clone() for name, value in norm.named_buffers()}
    out = []
    for piece, own in zip(pieces, every, strict=True):
        for name, value in norm.named_buffers():
            value.copy_(start[name])

        def gather(given: torch.Tensor, own: torch.Tensor = own) -> torch.Tensor:
            torch.testing.assert_close(given, own)
            return every

        norm.gather = gather
        out.append(norm(piece))
    norm.gather = None
    return torch.cat(out)


def test_a_batch_on_two_devices_by_hand() -> None:
    norm = GhostBatchNorm1d(1, group=0)
    out = in_parts(norm, torch.tensor([[0.0], [2.0], [10.0], [14.0]]), 2)
    # mean 6.5; variance (42.25 + 20.25 + 12.25 + 56.25) / 4 = 32.75, without bias 131 / 3
    expected = [(x - 6.5) / 32.75**0.5 for x in (0, 2, 10, 14)]
    assert out.flatten().tolist() == pytest.approx(expected, abs=1e-4)
    assert norm.running_mean.item() == pytest.approx(0.65)
    assert norm.running_var.item() == pytest.approx(0.9 + 13.1 / 3)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    each=st.integers(1, 3),
    parts=st.integers(2, 4),
    momentum=st.sampled_from([0.1, None]),
)
def test_a_batch_on_several_devices_is_one_batch(
    seed: int, each: int, parts: int, momentum: float | None
) -> None:
    plain, ours = filled(nn.BatchNorm2d(3)), filled(GhostBatchNorm2d(3, group=0))
    plain.momentum = ours.momentum = momentum
    plain.double(), ours.double()
    x = maps(seed, each * parts).double().requires_grad_()
    y = x.detach().clone().requires_grad_()
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).double()
    expected, out = plain(x), in_parts(ours, y, parts)
    torch.testing.assert_close(out, expected)
    (expected * weight).sum().backward()
    (out * weight).sum().backward()
    torch.testing.assert_close(y.grad, x.grad)
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad)
    torch.testing.assert_close(ours.bias.grad, plain.bias.grad)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)


def test_a_batch_on_three_devices_pinned() -> None:
    norm = filled(GhostBatchNorm2d(3, group=0))
    out = in_parts(norm, maps(0, 6), 3)
    assert out[4, :, 0, 0].tolist() == pytest.approx([2.31047, 1.30681, 1.86265], abs=1e-4)


def test_in_eval_mode_no_device_asks_another(net: ReIDNet) -> None:
    def gather(own: torch.Tensor) -> torch.Tensor:
        raise AssertionError("asked")

    plain = copy.deepcopy(net).eval()
    group_batch_norm(net, 0, gather)
    x = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(net.eval().embed(x), plain.embed(x))
    with pytest.raises(AssertionError, match="asked"):
        net.train()(x)
    group_batch_norm(net, 0)
    net.train()(x)
