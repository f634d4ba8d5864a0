"""Runs of the training loop on a tiny site, by one process or by several."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adapt.clustering.clusterer import Clusterer
from adapt.config import (
    Augmentation,
    BatchShape,
    Clustering,
    OptimizerSettings,
    Recipe,
    Schedule,
)
from adapt.data.decoding.decode import DecodedCrops
from adapt.errors import StoppedError
from adapt.methods import METHODS, MMT, Method, SourceMethod
from adapt.methods.mmt import MMTOptions
from adapt.runs.checkpoints import GroupCheckpointer
from adapt.runs.listing import NOT_LEARNED
from adapt.runtime.context import RunContext, StopRequest
from adapt.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from adapt.training.extraction import extract
from adapt.training.loop import TrainingSession, train
from adapt.training.state import Checkpointer, NoCheckpointer, Snapshot
from adapt.types import CropSet, PseudoLabels, Sample
from tests.support.shared_steps import small_net

PEOPLE, EACH, ROUNDS, STEPS = 6, 14, 2, 3
CPU = torch.device("cpu")


def crops(people: int = PEOPLE) -> DecodedCrops:
    """Noisy one-color people, seen by two cameras."""
    rng = np.random.default_rng(0)
    samples = tuple(
        Sample(Path(), f"{p}_{i}", camera=i % 2, person=p)
        for p in range(people)
        for i in range(EACH)
    )
    color = rng.integers(0, 256, (people, 1, 1, 3)).repeat(EACH, axis=0)
    noise = rng.normal(0, 20, (len(samples), 32, 16, 3))
    images = np.clip(color + noise, 0, 255).astype(np.uint8)
    return DecodedCrops(CropSet(Path(), samples, ("a", "b")), images)


@dataclass(frozen=True)
class Trained:
    """labels: of each round. figures: but for times. networks: digest of all that is there."""

    labels: list[list[int]]
    figures: list[dict[str, float]]
    networks: dict[str, Tensor]


class Kept(NoCheckpointer):
    """Holds the last state; stops where it is told."""

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop
        self.state: Snapshot | None = None

    def is_due(self) -> bool:
        return self.stop.made

    def save(self, make_snapshot: Any) -> None:
        self.state = make_snapshot()
        self.check_stop()

    def check_stop(self) -> None:
        if self.stop.made:
            raise StoppedError("asked to stop")


def build(name: str) -> Method:
    """A method on small networks; clustered by k-means, but for AML, which needs distances."""
    torch.manual_seed(0)
    settings = Clustering(algorithm="kmeans", clusters=PEOPLE, camera_centering=True)
    if name == "aml":
        settings = Clustering(algorithm="dbscan", radius=0.5, k1=8, k2=3, camera_centering=True)
    kind = METHODS[name]
    # the paper's 15 images of other cameras are more than a person has here
    own = {"merge_cross_camera": 4} if name == "aml" else {}
    options = kind.Options(**own)
    nets = [small_net() for _ in range(options.students_wanted(kind.max_students))]
    method = kind(nets, options, Clusterer(settings, identities_per_batch=4, seed=0))
    if isinstance(method, SourceMethod):
        rows = np.eye(4, method.embedder().dimension, dtype=np.float32)
        method.start_source(rows)
    return method


def run(
    group: ProcessGroup,
    name: str,
    ghost: int,
    *,
    state: Snapshot | None = None,
    checkpointer: Checkpointer | None = None,
    method: Method | None = None,
) -> Trained:
    """Train to the end, or from a state to the end."""
    method = method or build(name)
    recipe = Recipe(
        method=name,
        schedule=Schedule(rounds=ROUNDS, iterations=STEPS),
        batch=BatchShape(identities=4, instances=2, ghost=ghost),
        augment=Augmentation(pad=2),
        optimizer=OptimizerSettings(lr=1e-3),
    )
    source = crops(4) if isinstance(method, SourceMethod) else None
    rounds = train(
        TrainingSession(method, crops(), source),
        recipe,
        RunContext(CPU, group),
        seed=3,
        checkpointer=checkpointer,
        resume=state,
    )
    labels, figures = [], []
    for result in rounds:
        labels.append([int(x) for each in result.labels for x in each.labels])
        figures.append({k: v for k, v in result.metrics.items() if not k.startswith(NOT_LEARNED)})
    networks = {
        f"{name}/{key}": value
        for name, net in method.networks().items()
        for key, value in net.state_dict().items()
    }
    return Trained(labels, figures, networks)


@functools.cache
def run_alone(name: str, ghost: int) -> Trained:
    """By this process, which nobody stops."""
    return run(SINGLE_PROCESS, name, ghost)


def run_both(group: ProcessGroup, name: str, ghost: int) -> tuple[Trained, Trained | None]:
    """In a group and, in its first process, alone."""
    return run(group, name, ghost), run_alone(name, ghost) if group.is_main else None


def stop_and_resume_alone(
    group: ProcessGroup, name: str, looks: int
) -> tuple[Trained, Trained] | str:
    """The last process is asked to stop at a look; the first resumes alone, and never stopped."""
    asked, agreed = StopAfter(looks if group.rank == group.size - 1 else 10**6), StopRequest()
    kept = Kept(agreed)
    try:
        run(group, name, 4, checkpointer=GroupCheckpointer(group, asked, agreed, kept))
    except StoppedError:
        if not group.is_main:
            return "stopped"
        return run(SINGLE_PROCESS, name, 4, state=kept.state), run_alone(name, 4)
    return "never stopped"


def resume_together(group: ProcessGroup, name: str, looks: int) -> tuple[Trained, Trained | None]:
    """One process begins and stops, several resume; and one that never stopped."""
    kept = Kept(StopAfter(looks))
    if group.is_main:
        try:
            run(SINGLE_PROCESS, name, 4, checkpointer=kept)
        except StoppedError:
            assert kept.state is not None
        else:
            raise AssertionError("never stopped")
    done = run(group, name, 4, state=kept.state)
    return done, run_alone(name, 4) if group.is_main else None


class StopAfter(StopRequest):
    """Asks to stop when it was looked at so often."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    @property
    def made(self) -> bool:
        self.looks -= 1
        return self.looks < 0

    @made.setter
    def made(self, value: bool) -> None:
        pass


def collapsed(group: ProcessGroup) -> None:
    """The first process finds no clusters."""
    clusterer = _NoClusters(Clustering(), identities_per_batch=4, seed=0)
    run(group, "mmt", 4, method=MMT([small_net(), small_net()], MMTOptions(), clusterer))


class _NoClusters(Clusterer):
    def __call__(self, features: Any, cameras: Any) -> PseudoLabels:
        return PseudoLabels(np.full(len(features), -1), "nobody")


def killed(group: ProcessGroup) -> None:
    """The last process is gone in the middle of a round, without a word."""
    own = StopRequest() if group.is_main else _Fatal()
    shared = GroupCheckpointer(group, own, StopRequest(), NoCheckpointer())
    run(group, "mmt", 4, checkpointer=shared)


class _Fatal(StopAfter):
    def __init__(self) -> None:
        super().__init__(5)

    @property
    def made(self) -> bool:
        self.looks -= 1
        if self.looks < 0:
            os._exit(9)
        return False

    @made.setter
    def made(self, value: bool) -> None:
        pass


def embed(group: ProcessGroup, by_camera: bool) -> tuple[list[int], list[np.ndarray[Any, Any]]]:
    """Features of 84 crops of two cameras in batches of 9, and how often progress was told."""
    torch.manual_seed(0)
    nets = [small_net().train(), small_net()]
    nets[0](torch.randn(8, 3, 32, 16))
    data = crops()
    told: list[int] = []
    cameras = data.crops.camera_codes if by_camera else None
    tables = extract(
        nets,
        data.images,
        device=CPU,
        cameras=cameras,
        batch_size=9,
        progress=told.append,
        group=group,
    )
    return told, list(tables)
