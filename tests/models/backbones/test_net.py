from __future__ import annotations

import copy

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch
import torch.nn.functional as F

from models.backbones.net import IMAGENET_MEAN, IMAGENET_STD, ReIDNet
from models.errors import BackboneError


@pytest.fixture
def net() -> ReIDNet:
    torch.manual_seed(0)
    return ReIDNet("mobilenet_v2", classes=7)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(4, 3, 64, 32, generator=torch.Generator().manual_seed(0))


def test_forward_is_the_card(net: ReIDNet, x: torch.Tensor) -> None:
    """f = GAP(map); b = BN(f), batch statistics in training; z = W b."""
    out = net.train()(x)
    pooled = net.feature_map(x).flatten(2).mean(2)
    assert net.feature_map(x).shape == (4, 1280, 2, 1)
    torch.testing.assert_close(out.pooled, pooled)
    centered = pooled - pooled.mean(0)
    neck = centered / (pooled.var(0, unbiased=False) + net.neck.eps).sqrt()
    torch.testing.assert_close(out.neck, neck, atol=1e-4, rtol=1e-4)
    assert net.classifier is not None
    assert net.classifier.bias is None
    torch.testing.assert_close(out.logits, out.neck @ net.classifier.weight.T)


def test_embedding_is_the_normalized_neck(net: ReIDNet, x: torch.Tensor) -> None:
    net.eval()
    with torch.no_grad():
        embedding, neck = net.embed(x), net(x).neck
    torch.testing.assert_close(embedding, neck / neck.norm(dim=1, keepdim=True))
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(4))


def test_a_zero_feature_gives_no_nan(net: ReIDNet, x: torch.Tensor) -> None:
    torch.nn.init.zeros_(net.neck.weight)
    embedding = net.eval().embed(x)
    assert torch.equal(embedding, torch.zeros(4, 1280))
    torch.autograd.backward(embedding.sum())
    grad = net.neck.weight.grad
    assert grad is not None
    assert torch.isfinite(grad).all()


def test_neck_starts_as_identity_with_its_shift_fixed(net: ReIDNet, x: torch.Tensor) -> None:
    assert torch.equal(net.neck.weight, torch.ones(1280))
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    before = copy.deepcopy(net.neck.state_dict())
    logits = net.train()(x).logits
    assert logits is not None
    torch.autograd.backward(F.cross_entropy(logits, torch.arange(4)))
    optimizer.step()
    assert torch.equal(net.neck.bias, torch.zeros(1280))
    assert net.neck.bias.grad is None
    assert not torch.equal(net.neck.weight, before["weight"])


def test_classifier_is_optional(x: torch.Tensor) -> None:
    net = ReIDNet("mobilenet_v2")
    assert net.dimension == 1280
    out = net.eval()(x)
    assert out.logits is None
    assert out.pooled.shape == out.neck.shape == (4, 1280)
    assert not any("classifier" in key for key in net.state_dict())


def test_classifier_starts_small_and_can_be_replaced(net: ReIDNet, x: torch.Tensor) -> None:
    assert net.classifier is not None
    assert 0.0008 < net.classifier.weight.std().item() < 0.0012
    net.reset_classifier(3)
    logits = net(x).logits
    assert logits is not None
    assert logits.shape == (4, 3)
    rows = F.normalize(torch.randn(5, 1280), dim=1)
    net.reset_classifier(5, rows)
    assert torch.equal(net.classifier.weight, rows)
    assert net.classifier.weight.requires_grad
    rows.zero_()
    assert net.classifier.weight.abs().sum() > 0  # a copy
    assert [k for k in net.state_dict() if "classifier" in k] == ["classifier.weight"]


def test_a_frozen_networks_new_classifier_is_frozen(net: ReIDNet) -> None:
    net.requires_grad_(False).reset_classifier(3)
    assert not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize(("classes", "shape"), [(0, None), (-1, None), (3, (4, 1280)), (3, (3, 9))])
def test_classifier_shapes_are_checked(
    net: ReIDNet, classes: int, shape: tuple[int, int] | None
) -> None:
    with pytest.raises(BackboneError, match="classes"):
        net.reset_classifier(classes, None if shape is None else torch.zeros(shape))
    assert net.classifier is not None
    assert net.classifier.out_features == 7


def test_state_survives_a_copy(net: ReIDNet, x: torch.Tensor) -> None:
    other = ReIDNet("mobilenet_v2", classes=7)
    other.load_state_dict(net.state_dict())
    twin = copy.deepcopy(net)
    for net_ in (net, other, twin):
        net_.eval()
    with torch.no_grad():
        assert torch.equal(net.embed(x), other.embed(x))
        assert torch.equal(net.embed(x), twin.embed(x))


def test_two_seeds_give_two_nets(x: torch.Tensor) -> None:
    def embedding(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        with torch.no_grad():
            return ReIDNet("mobilenet_v2", classes=2).eval().embed(x)

    assert torch.equal(embedding(1), embedding(1))
    assert not torch.equal(embedding(1), embedding(2))


def test_the_constants_are_imagenets() -> None:
    assert IMAGENET_MEAN == (0.485, 0.456, 0.406)
    assert IMAGENET_STD == (0.229, 0.224, 0.225)
