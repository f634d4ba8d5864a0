"""The training loop, the only one: rounds of extract, relabel, train.

Every method of `adapt.methods` runs in it. What a method may vary is `adapt.methods.base.Method`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from adapt.config import Augmentation, BatchShape, OptimizerSettings, Schedule
from adapt.data.cache import DecodedCrops
from adapt.data.sampler import IdentitySampler, ImageSampler
from adapt.data.transforms import augment
from adapt.errors import DivergedError
from adapt.features import extract
from adapt.labels.guards import LabelReport, check_labels
from adapt.loop_state import (
    Checkpoints,
    LoopState,
    Means,
    NoCheckpoints,
    Standing,
    freeze,
    restore_networks,
    thaw,
)
from adapt.methods.base import Method
from adapt.progress import progress
from adapt.types import Batch, FeatureTable, PseudoLabels, RoundOf
from models.backbones.ghost_batch_norm import group_batch_norm


@dataclass(frozen=True)
class Round:
    """What one round did, for logs and pictures.

    number: from 1. labels: the sets a method made. metrics: named figures (statistics of each set
    of clusters, mean of each loss term and statistic, learning rate, seconds per stage).
    warnings: for people.
    """

    number: int
    labels: tuple[PseudoLabels, ...]
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
    source: DecodedCrops | None = None,
    checkpoints: Checkpoints | None = None,
    resume: LoopState | None = None,
) -> Iterator[Round]:
    """Train `method` on `data`; yields after each round, when networks may be read or saved.

    source: labelled crops that every step gets a batch of, for a method that wants them.
    camera_statistics: extract the features to be labelled camera by camera, see `extract`.
    checkpoints: asked after each step, and given the state between rounds. resume: a state of this
    very run, which goes on from there as if it had never stopped.
    All randomness follows from `seed`: same seed, same machine, same networks.
    Raises ClusteringError when a round's labels cannot be trained on (networks are then those
    of the round before), DivergedError when a loss or a network is not finite, and what a method
    refuses after a round. What was yielded last is the last good round. StoppedError comes from
    `checkpoints`.
    """
    checkpoints = checkpoints or NoCheckpoints()
    for net in method.networks().values():
        group_batch_norm(net, batch.ghost)
    at = Standing()
    if resume is not None:
        restore_networks(method, resume)
    _place(method, device)
    if resume is not None:
        kept = resume.notes["optimizer"]
        at = thaw(method, resume, build_optimizer(method, optimizer) if kept else None)
    else:
        checkpoints.keep(partial(freeze, method, at))
    cameras = data.crops.camera_codes
    while at.number < schedule.rounds:
        clock = _Clock()
        if not at.done:
            title = f"round {at.number + 1}/{schedule.rounds}: extract"
            by_camera = cameras if camera_statistics else None
            features = _extract(method, data, by_camera, device, title, checkpoints)
            clock.lap("extract")
            fewest = batch.identities if method.sampling == "identities" else 2
            _relabel(method, FeatureTable(features, cameras), at, schedule.rounds, fewest)
            clock.lap("relabel")
            checkpoints.pulse()
            _place(method, device)  # a new classifier starts on the CPU
            before = None if method.fresh_optimizer else at.optimizer
            at.optimizer = build_optimizer(method, optimizer, before)
            at.means = Means()
        opt = cast(torch.optim.Optimizer, at.optimizer)  # made when the round began
        for net in method.networks().values():
            net.train()
        sets = [(data, each.labels) for each in at.labels]
        if source is not None:
            sets.append((source, np.unique(source.crops.persons, return_inverse=True)[1]))
        draw = _Draw(batch, augmentation, method.views, method.sampling, device)
        streams = zip(*_streams(draw, sets, (seed, at.number), at.done), strict=True)
        steps = steps_of_round(method, schedule, at.labels, batch)
        with progress(f"round {at.number + 1}/{schedule.rounds}: train", steps) as tick:
            while at.done < steps:
                _set_rates(opt, learning_rate(optimizer, at.number, at.done / steps))
                at.means.add(_step(method, next(streams), opt))
                method.after_step(at.step)
                at.step += 1
                at.done += 1
                tick(at.done)
                if checkpoints.due():
                    checkpoints.keep(partial(freeze, method, at))
        _refuse_not_finite(method)
        clock.lap("train")
        lr = learning_rate(optimizer, at.number)
        trained = at.means.result()
        metrics = {**at.figures, **trained, "lr": lr, **clock.seconds}
        warnings = (*at.warnings, *method.after_round(trained))
        at.number, at.done = at.number + 1, 0
        yield Round(at.number, at.labels, metrics, tuple(dict.fromkeys(warnings)))
        if at.number < schedule.rounds:
            checkpoints.keep(partial(freeze, method, at))


def _place(method: Method, device: torch.device) -> None:
    for net in method.networks().values():
        net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _extract(
    method: Method,
    data: DecodedCrops,
    cameras: NDArray[np.int64] | None,
    device: torch.device,
    title: str,
    checkpoints: Checkpoints,
) -> tuple[NDArray[np.float32], ...]:
    with progress(title, len(data)) as tick:

        def pulse(done: int) -> None:
            checkpoints.pulse()
            tick(done)

        return extract(
            method.extractors(), data.images, device=device, cameras=cameras, progress=pulse
        )


def _relabel(method: Method, table: FeatureTable, at: Standing, rounds: int, fewest: int) -> None:
    """Label a round anew. fewest: clusters that batches need."""
    labels = method.relabel(table, RoundOf(at.number, rounds))
    reports = [
        check_labels(now, table.cameras, identities_per_batch=fewest, previous=before)
        for now, before in zip(labels, at.labels or [None] * len(labels), strict=True)
    ]
    at.labels = labels
    at.figures = _figures(reports)
    at.warnings = tuple(warning for report in reports for warning in report.warnings)


def build_optimizer(
    method: Method, settings: OptimizerSettings, before: torch.optim.Optimizer | None = None
) -> torch.optim.Optimizer:
    """One optimiser over every trained parameter of the method, in two groups of learning rates.

    Each group's `factor` is 1 for backbones and `new_layers` for all else.
    before: of the round before, whose moments are kept where the parameter is still trained.
    """
    named = [n for net in method.trained() for n in net.named_parameters() if n[1].requires_grad]
    groups = [
        {
            "params": [p for name, p in named if name.startswith("backbone.") == trunk],
            "factor": 1.0 if trunk else settings.new_layers,
        }
        for trunk in (True, False)
    ]
    opt: torch.optim.Optimizer
    if settings.algorithm == "adam":
        opt = torch.optim.Adam(groups, lr=settings.lr, weight_decay=settings.weight_decay)
    else:
        opt = torch.optim.SGD(
            groups,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
    if before is not None:
        opt.state.update({p: before.state[p] for _, p in named if p in before.state})
    return opt


def learning_rate(settings: OptimizerSettings, number: int, done: float = 0.0) -> float:
    """Learning rate of round `number` (from 0): linear warm-up from 0.01 lr, then steps down.

    done: share of the round's steps that are behind, in [0, 1).
    """
    passed = sum(number >= m for m in settings.milestones) + sum(done >= d for d in settings.drops)
    lr = settings.lr * settings.decay**passed
    if number < settings.warmup_rounds:
        lr *= 0.01 + 0.99 * number / settings.warmup_rounds
    return lr


def _set_rates(opt: torch.optim.Optimizer, lr: float) -> None:
    for group in opt.param_groups:
        group["lr"] = lr * group["factor"]


def steps_of_round(
    method: Method, schedule: Schedule, labels: Sequence[PseudoLabels], batch: BatchShape
) -> int:
    """Training steps of a round with these labels."""
    if not schedule.passes:
        return schedule.iterations
    if method.sampling == "images":
        return schedule.passes * math.ceil(len(labels[0].labels) / batch.size)
    return schedule.passes * math.ceil(max(s.clusters for s in labels) / batch.identities)


def _figures(reports: Sequence[LabelReport]) -> dict[str, float]:
    """Statistics of the clusters by name; numbered where there are several sets."""
    if len(reports) == 1:
        return dict(reports[0].metrics())
    return {
        f"{name}_{number}": value
        for number, report in enumerate(reports, start=1)
        for name, value in report.metrics().items()
    }


def _step(
    method: Method, batches: tuple[Batch, ...], opt: torch.optim.Optimizer
) -> dict[str, float]:
    losses = method.step(batches)
    total = losses.total()
    figures = {f"loss_{name}": float(term.detach()) for name, term in losses.terms.items()}
    value = float(total.detach())
    if not math.isfinite(value):
        raise DivergedError(
            f"the loss is not finite ({figures}); lower optimizer.lr or check the crops"
        )
    if total.requires_grad:  # otherwise the batch held nothing to learn from
        opt.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        opt.step()
    return {"loss": value, **figures, **losses.stats}


def _refuse_not_finite(method: Method) -> None:
    """The last step of a round has no next loss that would show what it did."""
    for name, net in method.networks().items():
        for key, value in net.state_dict().items():
            if not bool(value.isfinite().all()):
                raise DivergedError(f"{key} of {name} is not finite; lower optimizer.lr")


@dataclass(frozen=True)
class _Draw:
    """How batches are drawn."""

    shape: BatchShape
    augmentation: Augmentation
    views: int
    sampling: Literal["identities", "images"]
    device: torch.device

    def batches(
        self, data: DecodedCrops, labels: NDArray[np.int64], seed: tuple[int, ...], start: int
    ) -> Iterator[Batch]:
        """From batch number `start` on; each is augmented from a seed of its own."""
        for number, rows in enumerate(self._sampler(data, labels, np.random.default_rng(seed))):
            if number < start:
                continue
            own = np.random.SeedSequence((*seed, number)).generate_state(1, np.uint64)[0]
            generator = torch.Generator().manual_seed(int(own >> np.uint64(1)))
            images = torch.from_numpy(data.images[rows]).to(self.device)
            yield Batch(
                tuple(augment(images, self.augmentation, generator) for _ in range(self.views)),
                torch.from_numpy(labels[rows]).to(self.device),
                torch.from_numpy(rows),
            )

    def _sampler(
        self, data: DecodedCrops, labels: NDArray[np.int64], rng: np.random.Generator
    ) -> Iterable[NDArray[np.int64]]:
        if self.sampling == "images":
            return ImageSampler(len(labels), size=self.shape.size, rng=rng)
        return IdentitySampler(
            labels,
            data.crops.camera_codes,
            identities=self.shape.identities,
            instances=self.shape.instances,
            rng=rng,
        )


def _streams(
    draw: _Draw,
    sets: Sequence[tuple[DecodedCrops, NDArray[np.int64]]],
    seed: tuple[int, int],
    start: int,
) -> list[Iterator[Batch]]:
    """Batches of each set, drawn independently of how many sets there are."""
    return [draw.batches(data, labels, (*seed, i), start) for i, (data, labels) in enumerate(sets)]


class _Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[f"seconds_{stage}"] = now - self._last
        self._last = now
