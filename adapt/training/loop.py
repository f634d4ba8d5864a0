"""The training loop, the only one: rounds of extract, relabel, train.

Every method of `adapt.methods` runs in it. What a method may vary is `adapt.methods.base.Method`.
`adapt.workflows.rehearsal` times single steps by the same functions, with made-up labels.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from adapt.clustering.labels.guards import LabelReport, check_labels
from adapt.config import BatchShape, Recipe, Schedule
from adapt.data.decoding.decode import DecodedCrops
from adapt.methods.base import Method
from adapt.runtime.compute import set_up
from adapt.runtime.context import RunContext
from adapt.runtime.device import peak_gpu_bytes, peak_rss_bytes
from adapt.runtime.distributed import ProcessGroup
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
    Checkpointer,
    Clock,
    Means,
    NoCheckpointer,
    Snapshot,
    TrainerState,
    restore_networks,
)
from adapt.types import (
    Batch,
    FeatureTable,
    FloatAllocator,
    PseudoLabels,
    RoundOf,
    allocate_floats,
)
from models.backbones.ghost_batch_norm import group_batch_norm


@dataclass(frozen=True)
class TrainingSession:
    """What is trained on what.

    data: the crops that the method labels. source: labelled crops that every step gets a batch
    of, for a method that learns from some.
    """

    method: Method
    data: DecodedCrops
    source: DecodedCrops | None = None


@dataclass(frozen=True)
class RoundResult:
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
    session: TrainingSession,
    recipe: Recipe,
    context: RunContext,
    *,
    seed: int,
    checkpointer: Checkpointer | None = None,
    resume: Snapshot | None = None,
    allocate: FloatAllocator = allocate_floats,
) -> Iterator[RoundResult]:
    """Train a method on crops; yields after each round, when networks may be read or saved.

    recipe: all but `thinning` and `options`, which are in the session already.
    context: its device and process group; each process of the group calls this with the same
    arguments, and the main one gives the others its `resume`, labels and states.
    checkpointer: asked after each step, and given the state between rounds; it also stops the run.
    resume: a state of this very run, which continues from there as if it had never stopped.
    allocate: makes the arrays for the embeddings of all crops.
    All randomness follows from `seed`: same seed, same machine, same networks.
    Raises ClusteringError when a round's labels cannot be trained on (networks are then those
    of the round before), DivergedError when a loss or a network is not finite, and what a method
    refuses after a round. What was yielded last is the last good round. StoppedError comes from
    `checkpointer`.
    """
    trainer = _Trainer(session, recipe, context, seed, checkpointer or NoCheckpointer(), allocate)
    trainer.start(resume)
    rounds = recipe.schedule.rounds
    while trainer.state.round < rounds:
        if not trainer.state.steps_in_round:
            trainer.label()
        trainer.take_steps()
        yield trainer.end_round()
        if trainer.state.round < rounds:
            trainer.save()


def set_up_networks(
    method: Method, recipe: Recipe, size: tuple[int, int], device: torch.device
) -> None:
    """Let a method's networks compute as the recipe says. size: height and width of the crops."""
    networks = method.networks().values()
    for net in networks:
        group_batch_norm(net, recipe.batch.ghost)
    set_up(networks, recipe.compute, device, size)


def place_networks(method: Method, device: torch.device) -> None:
    """Move a method's networks to the device, channels last."""
    for net in method.networks().values():
        net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def prepare_optimizer(
    method: Method,
    recipe: Recipe,
    device: torch.device,
    kept: torch.optim.Optimizer | None = None,
) -> torch.optim.Optimizer:
    """The optimizer of a round, once it is labelled. kept: see `build_optimizer`."""
    place_networks(method, device)  # a new classifier starts on the CPU
    return build_optimizer(method, recipe.optimizer, kept)


def round_batches(
    session: TrainingSession,
    labels: Sequence[PseudoLabels],
    recipe: Recipe,
    device: torch.device,
    *,
    seed: tuple[int, int],
    first: int = 0,
) -> Generator[tuple[Batch, ...]]:
    """What each step of a round gets: crops by each set of labels, then the source crops.

    seed: of the run, and number of the round. first: number of the first step.
    """
    sets: list[LabelledSet] = [(session.data, each.labels) for each in labels]
    if session.source is not None:
        persons = session.source.crops.persons
        sets.append((session.source, np.unique(persons, return_inverse=True)[1]))
    method = session.method
    draw = Draw(recipe.batch, recipe.augment, method.views, method.sampling, device)
    return draw.streams(sets, seed, first)


@dataclass
class _Trainer:
    """The arguments of `train` and the state of the run."""

    session: TrainingSession
    recipe: Recipe
    context: RunContext
    seed: int
    checkpointer: Checkpointer
    allocate: FloatAllocator
    state: TrainerState = field(default_factory=TrainerState)

    @property
    def method(self) -> Method:
        return self.session.method

    @property
    def group(self) -> ProcessGroup:
        return self.context.group

    def start(self, snapshot: Snapshot | None) -> None:
        """Set up networks; from a snapshot, restore the whole state."""
        height, width = self.session.data.images.shape[1:3]
        set_up_networks(self.method, self.recipe, (height, width), self.context.device)
        if snapshot is not None:
            self._restore(snapshot)
        elif self.group.is_main:
            place_networks(self.method, self.context.device)
            self.save()
        self._follow_main()

    def _restore(self, snapshot: Snapshot) -> None:
        restore_networks(self.method, snapshot)
        place_networks(self.method, self.context.device)
        fresh = None
        if snapshot.notes["optimizer"]:
            fresh = build_optimizer(self.method, self.recipe.optimizer)
        self.state.load_state_dict(self.method, snapshot, fresh)

    def _follow_main(self) -> None:
        """Give all processes the state of the main one."""
        group = self.group
        if group.is_main and group.size > 1:
            snapshot = self.state.state_dict(self.method)
            group.broadcast((snapshot.tensors, snapshot.notes))
        elif not group.is_main:
            self._restore(Snapshot(*group.broadcast(None)))

    def save(self) -> None:
        """Save the state of now."""
        self.checkpointer.save(partial(self.state.state_dict, self.method))

    def label(self) -> None:
        """Extract features, label them anew and make the round's optimizer."""
        self.state.clock = Clock()
        cameras = self.session.data.crops.camera_codes
        self.group.barrier()  # the main process may have had more to do until here
        features = self._extract(cameras if self.recipe.clustering.camera_statistics else None)
        self.state.clock.lap("extract")
        if self.group.is_main:
            self._label_by(FeatureTable(features, cameras, self.allocate))
        self._follow_main()
        self.checkpointer.check_stop()

    def _label_by(self, table: FeatureTable) -> None:
        method, state = self.method, self.state
        before = dict(method.label_seconds())
        min_clusters = self.recipe.batch.identities if method.sampling == "identities" else 2
        _relabel(method, table, state, self.recipe.schedule.rounds, min_clusters)
        spent = {
            stage: seconds - before.get(stage, 0.0)
            for stage, seconds in method.label_seconds().items()
        }
        state.clock.lap("relabel", spent)
        kept = None if method.fresh_optimizer else state.optimizer
        state.optimizer = prepare_optimizer(method, self.recipe, self.context.device, kept)
        state.means = Means()

    def take_steps(self) -> None:
        """The steps of the round that are left."""
        method, state, recipe = self.method, self.state, self.recipe
        optimizer = cast(torch.optim.Optimizer, state.optimizer)  # made when the round began
        for net in method.networks().values():
            net.train()
        batches = round_batches(
            self.session,
            state.labels,
            recipe,
            self.context.device,
            seed=(self.seed, state.round),
            first=state.steps_in_round,
        )
        steps = steps_of_round(method, recipe.schedule, state.labels, recipe.batch)
        nets = method.networks().values()
        with (
            closing(batches),
            progress(self._title("train"), steps) as tick,
            shard_trunks(nets, optimizer, self.group, recipe.batch.ghost),
        ):
            while state.steps_in_round < steps:
                rate = learning_rate(recipe.optimizer, state.round, state.steps_in_round / steps)
                set_learning_rate(optimizer, rate)
                state.means.add(train_step(method, next(batches), optimizer))
                method.after_step(state.steps)
                state.steps += 1
                state.steps_in_round += 1
                tick(state.steps_in_round)
                if self.checkpointer.is_due():
                    state.clock.lap("train")
                    self.save()
        refuse_not_finite(method)
        state.clock.lap("train")

    def end_round(self) -> RoundResult:
        """Count the round and describe it."""
        state = self.state
        lr = learning_rate(self.recipe.optimizer, state.round)
        trained = state.means.result()
        metrics = {**state.figures, **trained, "lr": lr, **state.clock.seconds, **self._memory()}
        warnings = (*state.warnings, *self.method.after_round(trained))
        state.round, state.steps_in_round = state.round + 1, 0
        return RoundResult(state.round, state.labels, metrics, tuple(dict.fromkeys(warnings)))

    def _memory(self) -> dict[str, float]:
        """Peaks since this process began: no system tells them of a round."""
        figures = {"memory_bytes": float(peak_rss_bytes())}
        gpu = peak_gpu_bytes(self.context.device)
        return figures if gpu is None else {**figures, "memory_gpu_bytes": float(gpu)}

    def _title(self, stage: str) -> str:
        return f"round {self.state.round + 1}/{self.recipe.schedule.rounds}: {stage}"

    def _extract(self, cameras: NDArray[np.int64] | None) -> tuple[NDArray[np.float32], ...]:
        with progress(self._title("extract"), len(self.session.data)) as tick:

            def after_batch(done: int) -> None:
                self.checkpointer.check_stop()
                tick(done)

            return extract(
                self.method.extractors(),
                self.session.data.images,
                device=self.context.device,
                cameras=cameras,
                progress=after_batch,
                group=self.group,
                allocate=self.allocate,
            )


def _relabel(
    method: Method, table: FeatureTable, state: TrainerState, rounds: int, min_clusters: int
) -> None:
    """Label a round anew. min_clusters: that batches need."""
    labels = method.relabel(table, RoundOf(state.round, rounds))
    reports = [
        check_labels(now, table.cameras, identities_per_batch=min_clusters, previous=before)
        for now, before in zip(labels, state.labels or [None] * len(labels), strict=True)
    ]
    state.labels = labels
    state.figures = _figures(reports)
    state.warnings = tuple(warning for report in reports for warning in report.warnings)


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
