"""The training loop, the only one: rounds of extract, relabel, train.

Every method of `adapt.methods` runs in it. What a method may vary is `adapt.methods.base.Method`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from adapt.clustering.labels.guards import LabelReport, check_labels
from adapt.config import Augmentation, BatchShape, Compute, OptimizerSettings, Schedule
from adapt.data.decoding.decode import DecodedCrops
from adapt.methods.base import Method
from adapt.runtime.compute import set_up
from adapt.runtime.device import peak_gpu_bytes, peak_rss_bytes
from adapt.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from adapt.runtime.progress import progress
from adapt.training.batches import Draw, LabelledSet
from adapt.training.extraction import extract
from adapt.training.optimizer import (
    build_optimizer,
    learning_rate,
    refuse_not_finite,
    set_learning_rate,
    train_step,
)
from adapt.training.sharding import shard_trunks
from adapt.training.state import (
    Checkpoints,
    Clock,
    LoopState,
    Means,
    NoCheckpoints,
    Standing,
    freeze,
    restore_networks,
    thaw,
)
from adapt.types import FeatureTable, FloatAllocator, PseudoLabels, RoundOf, allocate_floats
from models.backbones.ghost_batch_norm import group_batch_norm

PLAIN = Compute()


@dataclass(frozen=True)
class Round:
    """What one round did, for logs and pictures.

    number: from 1. labels: the sets a method made. metrics: named figures (statistics of each set
    of clusters, mean of each loss term and statistic, learning rate, seconds per stage, memory).
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
    compute: Compute = PLAIN,
    seed: int,
    device: torch.device,
    source: DecodedCrops | None = None,
    checkpoints: Checkpoints | None = None,
    resume: LoopState | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
    allocate: FloatAllocator = allocate_floats,
) -> Iterator[Round]:
    """Train `method` on `data`; yields after each round, when networks may be read or saved.

    source: labelled crops that every step gets a batch of, for a method that wants them.
    camera_statistics: extract the features to be labelled camera by camera, see `extract`.
    compute: see `adapt.runtime.compute.set_up`.
    checkpoints: asked after each step, and given the state between rounds. resume: a state of this
    very run, which goes on from there as if it had never stopped.
    group: the processes that share the work, each of which calls this with the same arguments; its
    first one needs `resume`, labels, and gives the others its state.
    allocate: where embeddings of all crops come to lie.
    All randomness follows from `seed`: same seed, same machine, same networks.
    Raises ClusteringError when a round's labels cannot be trained on (networks are then those
    of the round before), DivergedError when a loss or a network is not finite, and what a method
    refuses after a round. What was yielded last is the last good round. StoppedError comes from
    `checkpoints`.
    """
    draw = Draw(batch, augmentation, method.views, method.sampling, device)
    run = _Training(
        method,
        data,
        source,
        draw,
        schedule,
        optimizer,
        camera_statistics,
        seed,
        checkpoints or NoCheckpoints(),
        group,
        compute,
        allocate,
    )
    run.start(resume)
    while run.at.number < schedule.rounds:
        if not run.at.done:
            run.label()
        run.take_steps()
        yield run.end_round()
        if run.at.number < schedule.rounds:
            run.keep()


@dataclass
class _Training:
    """A run of `train`: its arguments and where it stands."""

    method: Method
    data: DecodedCrops
    source: DecodedCrops | None
    draw: Draw
    schedule: Schedule
    settings: OptimizerSettings
    camera_statistics: bool
    seed: int
    checkpoints: Checkpoints
    group: ProcessGroup
    compute: Compute
    allocate: FloatAllocator
    at: Standing = field(default_factory=Standing)

    def start(self, state: LoopState | None) -> None:
        """Networks to their device; from a state, everything to where it stood."""
        method = self.method
        for net in method.networks().values():
            group_batch_norm(net, self.draw.shape.ghost)
        height, width = self.data.images.shape[1:3]
        set_up(method.networks().values(), self.compute, self.draw.device, (height, width))
        if state is not None:
            self._go_on(state)
        elif self.group.is_main:
            self._place()
            self.keep()
        self._follow_first()

    def _go_on(self, state: LoopState) -> None:
        restore_networks(self.method, state)
        self._place()
        fresh = build_optimizer(self.method, self.settings) if state.notes["optimizer"] else None
        self.at = thaw(self.method, state, fresh)

    def _follow_first(self) -> None:
        """Let all processes stand where the first one does."""
        group = self.group
        if group.is_main and group.size > 1:
            state = freeze(self.method, self.at)
            group.broadcast((state.tensors, state.notes))
        elif not group.is_main:
            self._go_on(LoopState(*group.broadcast(None)))

    def keep(self) -> None:
        """Give the state of now away."""
        self.checkpoints.keep(partial(freeze, self.method, self.at))

    def label(self) -> None:
        """Extract features, label them anew and make the round's optimizer."""
        self.at.clock = Clock()
        cameras = self.data.crops.camera_codes
        self.group.barrier()  # the first process may have had more to do until here
        features = self._extract(cameras if self.camera_statistics else None)
        self.at.clock.lap("extract")
        if self.group.is_main:
            self._label_by(FeatureTable(features, cameras, self.allocate))
        self._follow_first()
        self.checkpoints.pulse()

    def _label_by(self, table: FeatureTable) -> None:
        method, at = self.method, self.at
        before = dict(method.label_seconds())
        fewest = self.draw.shape.identities if method.sampling == "identities" else 2
        _relabel(method, table, at, self.schedule.rounds, fewest)
        spent = {
            stage: seconds - before.get(stage, 0.0)
            for stage, seconds in method.label_seconds().items()
        }
        at.clock.lap("relabel", spent)
        self._place()  # a new classifier starts on the CPU
        kept = None if method.fresh_optimizer else at.optimizer
        at.optimizer = build_optimizer(method, self.settings, kept)
        at.means = Means()

    def take_steps(self) -> None:
        """All steps of the round that are not behind."""
        method, at, settings = self.method, self.at, self.settings
        optimizer = cast(torch.optim.Optimizer, at.optimizer)  # made when the round began
        for net in method.networks().values():
            net.train()
        batches = self.draw.streams(self._sets(), (self.seed, at.number), at.done)
        steps = steps_of_round(method, self.schedule, at.labels, self.draw.shape)
        shape, nets = self.draw.shape, method.networks().values()
        with (
            closing(batches),
            progress(self._title("train"), steps) as tick,
            shard_trunks(nets, optimizer, self.group, shape.ghost),
        ):
            while at.done < steps:
                rate = learning_rate(settings, at.number, at.done / steps)
                set_learning_rate(optimizer, rate)
                at.means.add(train_step(method, next(batches), optimizer))
                method.after_step(at.step)
                at.step += 1
                at.done += 1
                tick(at.done)
                if self.checkpoints.due():
                    at.clock.lap("train")
                    self.keep()
        refuse_not_finite(method)
        at.clock.lap("train")

    def end_round(self) -> Round:
        """Count the round and tell of it."""
        at = self.at
        lr = learning_rate(self.settings, at.number)
        trained = at.means.result()
        metrics = {**at.figures, **trained, "lr": lr, **at.clock.seconds, **self._memory()}
        warnings = (*at.warnings, *self.method.after_round(trained))
        at.number, at.done = at.number + 1, 0
        return Round(at.number, at.labels, metrics, tuple(dict.fromkeys(warnings)))

    def _memory(self) -> dict[str, float]:
        """The most that this process has held since it began: no system tells it of a round."""
        figures = {"memory_bytes": float(peak_rss_bytes())}
        gpu = peak_gpu_bytes(self.draw.device)
        return figures if gpu is None else {**figures, "memory_gpu_bytes": float(gpu)}

    def _title(self, stage: str) -> str:
        return f"round {self.at.number + 1}/{self.schedule.rounds}: {stage}"

    def _place(self) -> None:
        for net in self.method.networks().values():
            net.to(device=self.draw.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _sets(self) -> list[LabelledSet]:
        sets = [(self.data, each.labels) for each in self.at.labels]
        if self.source is not None:
            people = np.unique(self.source.crops.persons, return_inverse=True)[1]
            sets.append((self.source, people))
        return sets

    def _extract(self, cameras: NDArray[np.int64] | None) -> tuple[NDArray[np.float32], ...]:
        with progress(self._title("extract"), len(self.data)) as tick:

            def pulse(done: int) -> None:
                self.checkpoints.pulse()
                tick(done)

            return extract(
                self.method.extractors(),
                self.data.images,
                device=self.draw.device,
                cameras=cameras,
                progress=pulse,
                group=self.group,
                allocate=self.allocate,
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
