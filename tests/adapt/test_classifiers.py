"""Classifiers of a new round start where the clusters are."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.classifiers import start_from_centers  # noqa: E402
from adapt.types import OUTLIER, PseudoLabels  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402


def test_rows_are_the_unit_centres_in_every_network_and_frozen_ones_stay_frozen() -> None:
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
    assert [p.requires_grad for p in nets[0].classifier.parameters()] == [True]  # type: ignore[union-attr]
    assert not any(p.requires_grad for p in nets[1].parameters())
