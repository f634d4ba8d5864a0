"""The loop's own business: order, learning rate, reproducibility, faults."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from pathlib import Path  # noqa: E402

from adapt.config import Augmentation, BatchShape, OptimizerSettings, Schedule  # noqa: E402
from adapt.data.cache import DecodedCrops  # noqa: E402
from adapt.errors import ClusteringError, TrainingError  # noqa: E402
from adapt.loop import build_optimizer, learning_rate, train  # noqa: E402
from adapt.methods import Source  # noqa: E402
from adapt.methods.source import SourceOptions  # noqa: E402
from adapt.types import Batch, CropSet, Losses, Sample  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402

CPU = torch.device("cpu")


def crops(persons: int = 4, each: int = 3) -> DecodedCrops:
    rng = np.random.default_rng(0)
    samples = tuple(
        Sample(Path(f"{p}_{i}.png"), f"{p}_{i}.png", camera=i % 2, person=p)
        for p in range(persons)
        for i in range(each)
    )
    images = rng.integers(0, 256, (len(samples), 32, 16, 3), dtype=np.uint8)
    return DecodedCrops(CropSet(Path(), samples, ("a", "b")), images)


def source(data: DecodedCrops, kind: type[Source] = Source) -> Source:
    torch.manual_seed(0)
    return kind(ReIDNet("resnet18"), SourceOptions(), data.crops.persons)


def run(method: Source, data: DecodedCrops, *, seed: int = 0, **changes: object):  # type: ignore[no-untyped-def]
    settings = {
        "schedule": Schedule(rounds=2, iterations=2),
        "batch": BatchShape(identities=2, instances=2),
        "augmentation": Augmentation(pad=2),
        "optimizer": OptimizerSettings(lr=1e-3),
        "camera_statistics": False,
        **changes,
    }
    return list(train(method, data, seed=seed, device=CPU, **settings))  # type: ignore[arg-type]


def state(method: Source) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in method.net.state_dict().items()}


def test_same_seed_same_network_other_seed_other_network() -> None:
    results = []
    for seed in (1, 1, 2):
        data = crops()
        method = source(data)
        run(method, data, seed=seed)
        results.append(state(method))
    one, again, other = results
    assert all(torch.equal(one[k], again[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


def test_it_learns() -> None:
    data = crops(persons=3, each=4)
    rounds = run(
        source(data),
        data,
        schedule=Schedule(rounds=6, iterations=6),
        augmentation=Augmentation(flip=0, pad=0, erase=0),
        batch=BatchShape(identities=3, instances=4),
    )
    assert rounds[-1].metrics["loss"] < 0.7 * rounds[0].metrics["loss"]
    assert rounds[-1].metrics["accuracy"] > 0.9


def test_rounds_report_their_figures() -> None:
    data = crops()
    first, second = run(source(data), data)
    assert (first.number, second.number) == (1, 2)
    assert {"loss", "loss_id", "loss_tri", "accuracy", "lr", "seconds_train"} <= set(first.metrics)
    assert all(np.isfinite(value) for value in first.metrics.values())


class _Broken(Source):
    def step(self, batch: Batch) -> Losses:
        losses = super().step(batch)
        return Losses({k: v * float("nan") for k, v in losses.terms.items()}, losses.weights)


def test_a_loss_that_is_not_finite_stops_the_run_before_the_step() -> None:
    data = crops()
    method = source(data, _Broken)
    before = {k: p.clone() for k, p in method.net.named_parameters()}
    with pytest.raises(TrainingError, match=r"lower optimizer\.lr"):
        run(method, data)
    assert all(torch.equal(before[k], p) for k, p in method.net.named_parameters())


def test_too_few_identities_stop_the_run() -> None:
    data = crops(persons=2)
    with pytest.raises(ClusteringError):
        run(source(data), data, batch=BatchShape(identities=3, instances=2))


def test_learning_rate_by_hand() -> None:
    settings = OptimizerSettings(lr=1.0, warmup_rounds=2, milestones=(3, 5), decay=0.1)
    rates = [learning_rate(settings, n) for n in range(6)]
    assert rates == pytest.approx([0.01, 0.505, 1.0, 0.1, 0.1, 0.01])


def test_optimizer_has_every_trainable_parameter_and_no_frozen_one() -> None:
    method = source(crops())
    for algorithm in ("adam", "sgd"):
        opt = build_optimizer(method, OptimizerSettings(algorithm=algorithm))
        held = {id(p) for group in opt.param_groups for p in group["params"]}
        assert held == {id(p) for p in method.net.parameters() if p.requires_grad}
        assert id(method.net.neck.bias) not in held
