"""What an adaptation would do, how long it would take and what it would hold in memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from adapt.config import Recipe
from adapt.data.catalog.splits import Split
from adapt.data.decoding.run_crops import RunCrops
from adapt.runs.folder import refuse_taken
from adapt.runtime.device import peak_rss_bytes
from adapt.training.loop import steps_of_round
from adapt.types import CropSet, PseudoLabels, allocate_floats
from adapt.workflows.fit import Machine
from adapt.workflows.rehearsal import PATIENCE, MadeUpClusterer, Measured, rehearse, separated
from adapt.workflows.session import PreparedSite, prepare, site_clusterer
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
    target: Path,
    *,
    camera_pattern: str | None,
    hold_back: float = 0.0,
    inits: Sequence[Path],
    recipe: Recipe,
    out: Path,
    machine: Machine,
    sources: Sequence[Path] = (),
    splits: Sequence[Split] = ("train",),
    validation: Path | None = None,
    patience: float = PATIENCE,
) -> AdaptationPlan:
    """Say what `adapt.workflows.training.adapt` would do with the same arguments; writes nothing.

    Crops are read as they would be, and thinned. Extraction, clustering and some steps are timed on
    a few of them, with made-up labels, and scaled up: extraction with the crops, steps with their
    number, clustering with the square of the crops beyond `CLUSTERED`.
    patience: see `rehearse`.
    Raises whatever would stop the run before its first round.
    """
    refuse_taken(out)
    torch.manual_seed(machine.seed)
    start = time.perf_counter()
    clusterer = MadeUpClusterer(recipe, seed=machine.seed, device=_gpu(machine))
    site = prepare(
        target,
        camera_pattern=camera_pattern,
        hold_back=hold_back,
        inits=inits,
        recipe=recipe,
        clusterer=clusterer,
        sources=sources,
        splits=splits,
        validation=validation,
        crops=RunCrops(out),
    )
    read = time.perf_counter() - start
    measured = _rehearsed(site, clusterer, recipe, machine, patience)
    return _put_together(site, measured, recipe, machine, read)


def _put_together(
    site: PreparedSite,
    measured: Measured,
    recipe: Recipe,
    machine: Machine,
    read: float,
) -> AdaptationPlan:
    """read: seconds that reading took."""
    clusters = _clusters(recipe, len(site.data))
    made_up = PseudoLabels(np.arange(len(site.data)) % clusters, "made up")
    steps = steps_of_round(site.method, recipe.schedule, [made_up], recipe.batch)
    info = site.inits[0].info
    return AdaptationPlan(
        recipe=recipe,
        crops=site.data.crops,
        source_crops=0 if site.source is None else len(site.source),
        backbone=info.backbone,
        preprocessing=info.preprocessing,
        networks=tuple(site.method.networks()),
        trained=len(site.method.trained()),
        views=site.method.views,
        clusters=clusters,
        steps=steps,
        device=str(machine.device),
        seconds=Seconds(
            read=read,
            extract=len(site.data) * measured.extract_seconds,
            label=measured.labellings * _labelling_seconds(site, recipe, machine),
            train=steps * measured.step_seconds,
            scoring=_scored(site) * measured.embed_seconds,
        ),
        memory=_memory(site, recipe, measured),
        disk=_disk(site, recipe, measured),
    )


def _rehearsed(
    site: PreparedSite,
    clusterer: MadeUpClusterer,
    recipe: Recipe,
    machine: Machine,
    patience: float,
) -> Measured:
    persons = 0 if site.source is None else len(np.unique(site.source.crops.persons))
    return rehearse(
        *(site.method, clusterer, site.data, recipe),
        source_persons=persons,
        seed=machine.seed,
        device=machine.device,
        patience=patience,
    )


def _clusters(recipe: Recipe, crops: int) -> int:
    wanted = recipe.clustering.clusters
    if recipe.clustering.algorithm == "kmeans" and wanted != "auto":
        return min(wanted, crops)
    return min(crops, max(recipe.batch.identities, round(crops / CROPS_OF_A_CLUSTER)))


def _labelling_seconds(site: PreparedSite, recipe: Recipe, machine: Machine) -> float:
    """Of one clustering of all crops after the first round, which also finds DBSCAN's radius."""
    crops = len(site.data)
    rows = min(crops, max(CLUSTERED, 4 * recipe.batch.identities))
    settings = recipe.clustering
    if settings.clusters != "auto":
        fewer = max(1, min(settings.clusters, crops) * rows // crops)
        settings = settings.model_copy(update={"clusters": fewer})
    people = max(2, rows // CROPS_OF_A_CLUSTER)
    dimension = site.method.embedder().dimension
    features = separated(rows, people, dimension, np.random.default_rng(machine.seed))
    cameras = np.arange(rows) // people % len(site.data.crops.cameras)
    scaled = recipe.model_copy(update={"clustering": settings})
    cluster = site_clusterer(scaled, machine.seed, machine.device, allocate_floats)
    cluster(features, cameras)
    start = time.perf_counter()
    cluster(features, cameras)
    return (time.perf_counter() - start) * (crops / rows) ** 2


def _scored(site: PreparedSite) -> int:
    """Crops that are embedded after each round for the curves."""
    labelled = site.labelled
    if labelled is None:
        return 0
    alone = labelled.gallery is labelled.query
    return len(labelled.query) + (0 if alone else len(labelled.gallery))


def _memory(site: PreparedSite, recipe: Recipe, measured: Measured) -> Memory:
    # AML holds a graph of each network at a time
    graphs = 0 if recipe.clustering.algorithm == "kmeans" else len(site.method.extractors())
    return Memory(
        measured=peak_rss_bytes(),
        networks=measured.networks,
        training=measured.gradients + measured.optimizer,
        activations=measured.activations,
        labelling=len(site.data) * graphs * GRAPH_BYTES,
        device=measured.device_peak,
    )


def _disk(site: PreparedSite, recipe: Recipe, measured: Measured) -> Disk:
    decoded = [site.data, *([site.source] if site.source is not None else [])]
    networks = len(site.method.extractors())
    # their mean, and of each graph, or of the mean, the centered features; k-means' float64 is two
    copies = 1 + (3 if recipe.clustering.algorithm == "kmeans" else networks)
    table = len(site.data) * site.method.embedder().dimension * np.dtype(np.float32).itemsize
    return Disk(
        crops=sum(each.images.nbytes for each in decoded),
        embeddings=(networks + copies) * table,
        checkpoints=CHECKPOINTS * (measured.networks + measured.optimizer),
    )


def _gpu(machine: Machine) -> torch.device | None:
    return None if machine.device.type == "cpu" else machine.device
