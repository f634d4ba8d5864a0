"""The training loop, the only one: rounds of extract, relabel, train.

Every method of `adapt.methods` runs in it. What a method may vary is `adapt.methods.base.Method`.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from adapt.config import Augmentation, BatchShape, OptimizerSettings, Schedule
from adapt.data.cache import DecodedCrops
from adapt.data.sampler import IdentitySampler
from adapt.data.transforms import augment
from adapt.errors import TrainingError
from adapt.features import extract
from adapt.labels.guards import check_labels
from adapt.methods.base import Method
from adapt.progress import progress
from adapt.types import Batch, FeatureTable, PseudoLabels


@dataclass(frozen=True)
class Round:
    """What one round did, for logs and pictures.

    number: from 1. metrics: named figures (cluster statistics, mean of each loss term and
    statistic, learning rate, seconds per stage). warnings: for people.
    """

    number: int
    labels: PseudoLabels
    metrics: Mapping[str, float]
    warnings: tuple[str, ...]


def train(
    method: Method,
    data: DecodedCrops,
    *,
    schedule: Schedule,
    batch: BatchShape,
    augmentation: Augmentation,
    optimizer: OptimizerSettings,
    camera_statistics: bool,
    seed: int,
    device: torch.device,
) -> Iterator[Round]:
    """Train `method` on `data`; yields after each round, when networks may be read or saved.

    camera_statistics: extract the features to be labelled camera by camera, see `extract`.
    All randomness follows from `seed`: same seed, same machine, same networks.
    Raises ClusteringError when a round's labels cannot be trained on (networks are then those
    of the round before) and TrainingError when a loss is not finite.
    """
    for net in method.networks().values():
        net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    cameras = data.crops.camera_codes
    opt: torch.optim.Optimizer | None = None
    previous: PseudoLabels | None = None
    step = 0
    for number in range(schedule.rounds):
        clock = _Clock()
        with progress(f"round {number + 1}/{schedule.rounds}: extract", len(data)) as tick:
            features = extract(
                method.extractors(),
                data.images,
                device=device,
                cameras=cameras if camera_statistics else None,
                progress=tick,
            )
        clock.lap("extract")
        labels = method.relabel(FeatureTable(features, cameras))
        report = check_labels(
            labels, cameras, identities_per_batch=batch.identities, previous=previous
        )
        previous = labels
        clock.lap("relabel")
        for net in method.networks().values():
            net.to(device=device)  # a new classifier starts on the CPU
            net.train()
        if opt is None or method.fresh_optimizer:
            opt = build_optimizer(method, optimizer)
        lr = learning_rate(optimizer, number)
        for group in opt.param_groups:
            group["lr"] = lr
        means = _Means()
        batches = _batches(data, labels, batch, augmentation, method.views, (seed, number), device)
        with progress(f"round {number + 1}/{schedule.rounds}: train", schedule.iterations) as tick:
            for done in range(1, schedule.iterations + 1):
                means.add(_step(method, next(batches), opt))
                method.after_step(step)
                step += 1
                tick(done)
        clock.lap("train")
        metrics = {**report.metrics(), **means.result(), "lr": lr, **clock.seconds}
        yield Round(number + 1, labels, metrics, report.warnings)


def build_optimizer(method: Method, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """One optimiser over every trained parameter of the method."""
    parameters = [p for net in method.trained() for p in net.parameters() if p.requires_grad]
    if settings.algorithm == "adam":
        return torch.optim.Adam(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )


def learning_rate(settings: OptimizerSettings, number: int) -> float:
    """Learning rate of round `number` (from 0): linear warm-up from 0.01 lr, then steps down."""
    lr = settings.lr * settings.decay ** sum(number >= m for m in settings.milestones)
    if number < settings.warmup_rounds:
        lr *= 0.01 + 0.99 * number / settings.warmup_rounds
    return lr


def _step(method: Method, batch: Batch, opt: torch.optim.Optimizer) -> dict[str, float]:
    losses = method.step(batch)
    total = losses.total()
    figures = {f"loss_{name}": float(term.detach()) for name, term in losses.terms.items()}
    value = float(total.detach())
    if not math.isfinite(value):
        raise TrainingError(
            f"the loss is not finite ({figures}); lower optimizer.lr or check the crops"
        )
    opt.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    opt.step()
    return {"loss": value, **figures, **losses.stats}


def _batches(
    data: DecodedCrops,
    labels: PseudoLabels,
    shape: BatchShape,
    augmentation: Augmentation,
    views: int,
    seed: tuple[int, int],
    device: torch.device,
) -> Iterator[Batch]:
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    sampler = IdentitySampler(
        labels.labels,
        data.crops.camera_codes,
        identities=shape.identities,
        instances=shape.instances,
        rng=rng,
    )
    for rows in sampler:
        images = torch.from_numpy(data.images[rows]).to(device)
        yield Batch(
            tuple(augment(images, augmentation, generator) for _ in range(views)),
            torch.from_numpy(labels.labels[rows]).to(device),
            torch.from_numpy(rows),
        )


class _Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[f"seconds_{stage}"] = now - self._last
        self._last = now


class _Means:
    """Mean of each named figure over the steps of a round."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)

    def add(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._values[name].append(value)

    def result(self) -> dict[str, float]:
        return {name: float(np.mean(values)) for name, values in self._values.items()}
