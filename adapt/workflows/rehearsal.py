"""What a round costs: a few real steps of the real networks on real crops, timed and thrown away.

Labels are made up, so that nothing depends on what would be found: `MadeUpClusterer` gives people
of equal size, the features that methods look at (`separated`) show the same people. Networks,
optimizer, batches and steps come from the functions of `adapt.training.loop`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from adapt.clustering.clusterer import Clusterer
from adapt.clustering.graph.jaccard import JaccardGraph
from adapt.clustering.graph.rows import DistanceGraph
from adapt.config import Recipe
from adapt.data.decoding.decode import DecodedCrops
from adapt.methods import Method, SourceMethod
from adapt.runtime.context import RunContext
from adapt.runtime.device import peak_gpu_bytes
from adapt.training.extraction import MIN_CAMERA_CROPS, extract
from adapt.training.loop import (
    TrainingSession,
    place_networks,
    prepare_optimizer,
    round_batches,
    set_up_networks,
)
from adapt.training.optimizer import learning_rate, set_learning_rate, train_step
from adapt.types import Batch, CropSet, FeatureTable, PseudoLabels, RoundOf, Sample

CROPS_OF_A_PERSON = 40
"""In made-up features: more than any method looks at in the neighborhood of a crop."""

STEP_PATIENCE = 4.0
"""Seconds after which no further step is timed."""

MAX_STEPS = 8


@dataclass(frozen=True)
class StepCosts:
    """What extraction and training cost.

    extract_seconds: for one crop, with all networks that are asked, as a round asks them.
    embed_seconds: for one crop with one network, as scoring does it.
    step_seconds: for one training step. labellings: how often a round clusters all crops.
    networks, gradients, optimizer, activations: bytes; the activations are the tensors that one
        step keeps for its backward pass.
    device_peak: bytes that were held on a GPU at most; None on a CPU.
    """

    extract_seconds: float
    embed_seconds: float
    step_seconds: float
    labellings: int
    networks: int
    gradients: int
    optimizer: int
    activations: int
    device_peak: int | None


class MadeUpClusterer(Clusterer):
    """People of equal size in turn, whatever the features; counts how often it is asked."""

    def __init__(self, recipe: Recipe, *, seed: int, device: torch.device | None = None) -> None:
        """Distances are measured as the recipe says, for methods that look at them."""
        people = recipe.batch.identities
        super().__init__(recipe.clustering, identities_per_batch=people, seed=seed, device=device)
        self._people = people
        self.asked: list[int] = []  # a list: shallow copies of a clusterer share it

    def __call__(self, features: NDArray[np.float32], cameras: NDArray[np.int64]) -> PseudoLabels:
        """Crop i is person i modulo the number of people."""
        self.asked.append(len(features))
        return self._made_up(len(features))

    def graph(self, features: NDArray[np.float32], cameras: NDArray[np.int64]) -> JaccardGraph:
        """As a real one."""
        self.asked.append(len(features))
        return super().graph(features, cameras)

    def label(self, graph: DistanceGraph) -> PseudoLabels:
        """Crop i is person i modulo the number of people."""
        return self._made_up(graph.images)

    def _made_up(self, images: int) -> PseudoLabels:
        return PseudoLabels(np.arange(images) % self._people, "made up")


def separated(
    images: int, people: int, dimension: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """(N, D) embeddings of length 1 in which crop i is person i modulo `people`, all far apart."""
    centers = rng.normal(size=(people, dimension)).astype(np.float32)
    noise = rng.normal(scale=0.3, size=(images, dimension)).astype(np.float32)
    rows = centers[np.arange(images) % people] + noise
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def rehearse(
    session: TrainingSession,
    recipe: Recipe,
    context: RunContext,
    clusterer: MadeUpClusterer,
    *,
    seed: int,
    patience: float = STEP_PATIENCE,
) -> StepCosts:
    """Measure extraction and training of a method; its networks are of no use afterwards.

    clusterer: the one that the method was built with. patience: seconds after which nothing more
    is timed, once there is one figure.
    """
    method, data, device = session.method, session.data, context.device
    rng = np.random.default_rng(seed)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    if session.source is not None and isinstance(method, SourceMethod):
        people = len(np.unique(session.source.crops.persons))
        method.start_source(separated(people, people, method.embedder().dimension, rng))
    height, width = data.images.shape[1:3]
    set_up_networks(method, recipe, (height, width), device)
    place_networks(method, device)
    own_statistics = recipe.clustering.camera_statistics
    extract_seconds = _extraction(method, data, own_statistics, device, patience)
    stand_in = _stand_in(data, recipe.batch.identities)
    features = tuple(
        separated(len(stand_in), recipe.batch.identities, net.dimension, rng)
        for net in method.extractors()
    )
    table = FeatureTable(features, stand_in.crops.camera_codes)
    labels = method.relabel(table, RoundOf(0, recipe.schedule.rounds))
    optimizer = prepare_optimizer(method, recipe, device)
    set_learning_rate(optimizer, learning_rate(recipe.optimizer, 0))
    stood_in = TrainingSession(method, stand_in, session.source)
    with closing(round_batches(stood_in, labels, recipe, device, seed=(seed, 0))) as batches:
        activations, step_seconds = _steps(method, batches, optimizer, device, patience)
    trained = sum(_bytes(net, trained=True) for net in method.trained())
    passes = len(method.extractors()) * (2 if own_statistics else 1)
    return StepCosts(
        extract_seconds=extract_seconds,
        embed_seconds=extract_seconds / max(passes, 1),
        step_seconds=step_seconds,
        labellings=len(clusterer.asked),
        networks=sum(_bytes(net) for net in method.networks().values()),
        gradients=trained,
        optimizer=trained * (2 if recipe.optimizer.algorithm == "adam" else 1),
        activations=activations,
        device_peak=peak_gpu_bytes(device),
    )


def _stand_in(data: DecodedCrops, people: int) -> DecodedCrops:
    """`CROPS_OF_A_PERSON` crops of each made-up person in two cameras: the site's first pixels,
    repeated where the site has fewer crops."""
    rows = people * CROPS_OF_A_PERSON
    samples = tuple(Sample(Path(), str(n), camera=n // people % 2) for n in range(rows))
    enough = len(data) >= rows
    images = data.images[:rows] if enough else data.images[np.arange(rows) % len(data)]
    return DecodedCrops(CropSet(Path(), samples, ("0", "1")), images)


def _extraction(
    method: Method,
    data: DecodedCrops,
    own_statistics: bool,
    device: torch.device,
    patience: float,
) -> float:
    """Seconds for one crop: of a few crops, and where that was quick of a whole batch."""
    seconds = 0.0
    for wanted in (MIN_CAMERA_CROPS, 128):
        images = data.images[:wanted]
        cameras = np.zeros(len(images), np.int64) if own_statistics else None
        start = time.perf_counter()
        extract(method.extractors(), images, device=device, cameras=cameras)
        seconds = (time.perf_counter() - start) / len(images)
        if seconds * wanted > patience:
            break
    return seconds


def _steps(
    method: Method,
    batches: Iterator[tuple[Batch, ...]],
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    patience: float,
) -> tuple[int, float]:
    """Bytes that a step keeps for its backward pass, and seconds of a step after the first."""
    for net in method.networks().values():
        net.train()
    kept = _KeptTensors(method)
    with saved_tensors_hooks(kept.keep, lambda tensor: tensor):
        train_step(method, next(batches), optimizer)  # allocates, and is not timed
    method.after_step(0)
    seconds: list[float] = []
    while len(seconds) < MAX_STEPS and not sum(seconds) > patience:
        _wait_for(device)
        start = time.perf_counter()
        train_step(method, next(batches), optimizer)
        method.after_step(len(seconds) + 1)
        _wait_for(device)
        seconds.append(time.perf_counter() - start)
    return kept.bytes, float(np.mean(seconds))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _KeptTensors:
    """Adds up what the autograd graph keeps, each storage once, parameters aside."""

    def __init__(self, method: Method) -> None:
        nets = method.networks().values()
        self._seen = {p.untyped_storage().data_ptr() for net in nets for p in net.parameters()}
        self.bytes = 0

    def keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


def _bytes(net: nn.Module, *, trained: bool = False) -> int:
    """Of parameters and buffers, or of the parameters that are trained."""
    if trained:
        return sum(p.nbytes for p in net.parameters() if p.requires_grad)
    return sum(value.nbytes for value in net.state_dict().values())
