"""What an adaptation would do, how long it would take and what it would hold in memory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from adapt.config import Recipe
from adapt.runs.spec import RunSpec
from adapt.runtime.context import RunContext
from adapt.runtime.device import peak_rss_bytes
from adapt.training.loop import steps_of_round
from adapt.types import CropSet, PseudoLabels, allocate_floats
from adapt.workflows.rehearsal import (
    STEP_PATIENCE,
    MadeUpClusterer,
    StepCosts,
    rehearse,
    separated,
)
from adapt.workflows.session import Session, open_session, site_clusterer
from models.image import Preprocessing

CLUSTERED = 2000
"""Most rows that are clustered to see how long that takes; the time grows as their square."""

CROPS_OF_A_CLUSTER = 20
"""Where the recipe does not say how many clusters there are."""

GRAPH_BYTES = 2048
"""Of a crop in neighbors and re-ranked distances: some 20 + 2 x 100 entries of 8 bytes."""

CHECKPOINTS = 2
"""The last one, and the next while it is written."""


@dataclass(frozen=True)
class Seconds:
    """Estimated, of one round but for `read`, which is once. scoring: of the validation set."""

    read: float
    extract: float
    label: float
    train: float
    scoring: float

    @property
    def round(self) -> float:
        """Of one round."""
        return self.extract + self.label + self.train + self.scoring


@dataclass(frozen=True)
class Memory:
    """Estimated bytes of main memory, all held at one time at most.

    measured: what this process held at most when it had read everything and made its steps;
    networks, training and activations are in it, and the decoded crops, which are mapped from a
    file: the system takes their pages back when it needs room.
    networks: with their averages and heads. training: gradients and the optimizer's moments.
    activations: what a step keeps for its backward pass. labelling: neighbors and distances.
    device: bytes on a GPU when the steps were made, where the run has one.
    """

    measured: int
    networks: int
    training: int
    activations: int
    labelling: int
    device: int | None

    @property
    def host(self) -> int:
        """Main memory."""
        return self.measured + self.labelling


@dataclass(frozen=True)
class Disk:
    """Estimated bytes that a run's folder needs beside what it keeps at the end.

    crops: decoded, which --resume finds again. embeddings: each network's, and the copies that are
    clustered, in files without a name. checkpoints: `CHECKPOINTS` of them.
    """

    crops: int
    embeddings: int
    checkpoints: int

    @property
    def all(self) -> int:
        """Their sum."""
        return self.crops + self.embeddings + self.checkpoints


@dataclass(frozen=True)
class AdaptationPlan:
    """What `resight adapt` would do.

    crops: as they would be used: thinned, without what cannot be read. source_crops: of those
    that the method learns from, too. trained: how many of the networks are. steps: of a round.
    clusters: as many as the recipe asks for, or a guess, which decides `steps` where the recipe
    counts passes.
    """

    recipe: Recipe
    crops: CropSet
    source_crops: int
    backbone: str
    preprocessing: Preprocessing
    networks: tuple[str, ...]
    trained: int
    views: int
    clusters: int
    steps: int
    device: str
    seconds: Seconds
    memory: Memory
    disk: Disk

    @property
    def total_seconds(self) -> float:
        """Of the whole run."""
        return self.seconds.read + self.recipe.schedule.rounds * self.seconds.round


def plan_adaptation(
    spec: RunSpec, context: RunContext, out: Path, *, patience: float = STEP_PATIENCE
) -> AdaptationPlan:
    """Say what `adapt.workflows.adapt.adapt` would do with the same arguments; writes nothing.

    Crops are read as they would be, and thinned. Extraction, clustering and some steps are timed on
    a few of them, with made-up labels, and scaled up: extraction with the crops, steps with their
    number, clustering with the square of the crops beyond `CLUSTERED`.
    patience: see `rehearse`.
    Raises whatever would stop the run before its first round.
    """
    start = time.perf_counter()
    clusterer = MadeUpClusterer(spec.recipe, seed=spec.seed, device=_gpu(context))
    session = open_session(spec, context, out, clusterer=clusterer)
    read = time.perf_counter() - start
    costs = rehearse(session, spec.recipe, context, clusterer, seed=spec.seed, patience=patience)
    return _put_together(session, costs, context, read)


def _put_together(
    session: Session, costs: StepCosts, context: RunContext, read: float
) -> AdaptationPlan:
    """read: seconds that reading took."""
    recipe, crops = session.spec.recipe, len(session.data)
    clusters = _clusters(recipe, crops)
    made_up = PseudoLabels(np.arange(crops) % clusters, "made up")
    steps = steps_of_round(session.method, recipe.schedule, [made_up], recipe.batch)
    return AdaptationPlan(
        recipe=recipe,
        crops=session.data.crops,
        source_crops=0 if session.source is None else len(session.source),
        backbone=session.spec.known_backbone,
        preprocessing=session.spec.known_preprocessing,
        networks=tuple(session.method.networks()),
        trained=len(session.method.trained()),
        views=session.method.views,
        clusters=clusters,
        steps=steps,
        device=str(context.device),
        seconds=Seconds(
            read=read,
            extract=crops * costs.extract_seconds,
            label=costs.labellings * _labelling_seconds(session, context.device),
            train=steps * costs.step_seconds,
            scoring=_scored(session) * costs.embed_seconds,
        ),
        memory=_memory(session, costs),
        disk=_disk(session, costs),
    )


def _clusters(recipe: Recipe, crops: int) -> int:
    wanted = recipe.clustering.clusters
    if recipe.clustering.algorithm == "kmeans" and wanted != "auto":
        return min(wanted, crops)
    return min(crops, max(recipe.batch.identities, round(crops / CROPS_OF_A_CLUSTER)))


def _labelling_seconds(session: Session, device: torch.device) -> float:
    """Of one clustering of all crops after the first round, which also finds DBSCAN's radius."""
    spec, crops = session.spec, len(session.data)
    rows = min(crops, max(CLUSTERED, 4 * spec.recipe.batch.identities))
    settings = spec.recipe.clustering
    if settings.clusters != "auto":
        fewer = max(1, min(settings.clusters, crops) * rows // crops)
        settings = settings.model_copy(update={"clusters": fewer})
    people = max(2, rows // CROPS_OF_A_CLUSTER)
    dimension = session.method.embedder().dimension
    features = separated(rows, people, dimension, np.random.default_rng(spec.seed))
    cameras = np.arange(rows) // people % len(session.data.crops.cameras)
    recipe = spec.recipe.model_copy(update={"clustering": settings})
    scaled = spec.changed(recipe=recipe)
    cluster = site_clusterer(scaled, device, allocate_floats)
    cluster(features, cameras)
    start = time.perf_counter()
    cluster(features, cameras)
    return (time.perf_counter() - start) * (crops / rows) ** 2


def _scored(session: Session) -> int:
    """Crops that are embedded after each round for the curves."""
    labelled = session.labelled
    if labelled is None:
        return 0
    alone = labelled.gallery is labelled.query
    return len(labelled.query) + (0 if alone else len(labelled.gallery))


def _memory(session: Session, costs: StepCosts) -> Memory:
    recipe = session.spec.recipe
    # AML holds a graph of each network at a time
    graphs = 0 if recipe.clustering.algorithm == "kmeans" else len(session.method.extractors())
    return Memory(
        measured=peak_rss_bytes(),
        networks=costs.networks,
        training=costs.gradients + costs.optimizer,
        activations=costs.activations,
        labelling=len(session.data) * graphs * GRAPH_BYTES,
        device=costs.device_peak,
    )


def _disk(session: Session, costs: StepCosts) -> Disk:
    recipe = session.spec.recipe
    decoded = [session.data, *([session.source] if session.source is not None else [])]
    table = len(session.data) * session.method.embedder().dimension * np.dtype(np.float32).itemsize
    networks = len(session.method.extractors())
    mean = 1  # of the networks
    if recipe.clustering.algorithm == "kmeans":
        centered = 1  # the mean, centered by camera
        double = 2  # its copy in float64, which has the size of two tables
    else:
        centered = networks  # one for each graph
        double = 0
    return Disk(
        crops=sum(each.images.nbytes for each in decoded),
        embeddings=(networks + mean + centered + double) * table,
        checkpoints=CHECKPOINTS * (costs.networks + costs.optimizer),
    )


def _gpu(context: RunContext) -> torch.device | None:
    return None if context.device.type == "cpu" else context.device
