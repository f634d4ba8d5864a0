"""Classifiers of a new round start where the clusters are."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.methods.parts.classifiers import classifier_at, start_from_centers  # noqa: E402
from adapt.types import OUTLIER, PseudoLabels  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402


def test_rows_are_the_unit_centers_in_every_network_and_frozen_ones_stay_frozen() -> None:
    nets = [ReIDNet("resnet18", classes=7), ReIDNet("resnet18")]
    nets[1].requires_grad_(False)
    features = np.zeros((5, 512), np.float32)
    features[:, :2] = [[1, 0], [0, 1], [0, 3], [0, 5], [4, 4]]
    labels = PseudoLabels(np.array([0, 0, 1, 1, OUTLIER]), "given")
    start_from_centers(nets, features, labels)
    expected = torch.zeros(2, 512)
    expected[0, :2] = 0.5**0.5
    expected[1, 1] = 1
    for net in nets:
        assert net.classifier is not None
        torch.testing.assert_close(net.classifier.weight.detach(), expected)
    assert [p.requires_grad for p in nets[0].classifier.parameters()] == [True]
    assert not any(p.requires_grad for p in nets[1].parameters())


@pytest.mark.parametrize("logit", [8.0, 3.0])
def test_a_feature_on_a_center_has_the_logit_asked_for(logit: float) -> None:
    net = ReIDNet("resnet18")
    center = np.eye(4, 512, dtype=np.float32)
    with torch.no_grad():
        net.neck.weight.mul_(torch.linspace(0.5, 3, 512))
        layer = classifier_at(center, net, logit)
        images = torch.randn(400, 512, generator=torch.Generator().manual_seed(0))
        length = net.neck(images).square().sum(dim=1).mean().sqrt()
        found = layer(torch.from_numpy(center) * length)
    torch.testing.assert_close(found, logit * torch.eye(4), rtol=1e-3, atol=1e-5)
    assert layer.bias is None
