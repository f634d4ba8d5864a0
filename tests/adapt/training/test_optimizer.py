"""Learning rates, and what the optimizer holds."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.config import OptimizerSettings  # noqa: E402
from adapt.methods import Source  # noqa: E402
from adapt.methods.source import SourceOptions  # noqa: E402
from adapt.training.optimizer import build_optimizer, learning_rate, set_learning_rate  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")


def test_learning_rate_by_hand() -> None:
    settings = OptimizerSettings(lr=1.0, warmup_rounds=2, milestones=(3, 5), decay=0.1)
    rates = [learning_rate(settings, n) for n in range(6)]
    assert rates == pytest.approx([0.01, 0.505, 1.0, 0.1, 0.1, 0.01])


def test_drops_within_a_round_by_hand() -> None:
    settings = OptimizerSettings(lr=1.0, milestones=(1,), drops=(0.25, 0.5), decay=0.1)
    for number, first in ((0, 1.0), (1, 0.1)):
        rates = [learning_rate(settings, number, done / 4) / first for done in range(4)]
        assert rates == pytest.approx([1.0, 0.1, 0.01, 0.01])


def source() -> Source:
    return Source(ReIDNet("resnet18"), SourceOptions(), np.array([0, 0, 1, 1]))


def test_optimizer_has_every_trainable_parameter_and_no_frozen_one() -> None:
    method = source()
    for algorithm in ("adam", "sgd"):
        opt = build_optimizer(method, OptimizerSettings(algorithm=algorithm))
        held = {id(p) for group in opt.param_groups for p in group["params"]}
        assert held == {id(p) for p in method.net.parameters() if p.requires_grad}
        assert id(method.net.neck.bias) not in held


def test_new_layers_have_their_factor_of_the_rate() -> None:
    opt = build_optimizer(source(), OptimizerSettings(new_layers=10.0))
    set_learning_rate(opt, 0.5)
    assert [group["lr"] for group in opt.param_groups] == [0.5, 5.0]
