"""What a round costs: a few real steps of the real networks on real crops, timed and thrown away.

Labels are made up, so that nothing depends on what would be found: `MadeUpClusterer` gives people
of equal size, the features that methods look at (`separated`) show the same people.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from adapt.clustering.clusterer import Clusterer
from adapt.clustering.graph.jaccard import JaccardGraph
from adapt.clustering.graph.rows import DistanceGraph
from adapt.config import Recipe
from adapt.data.batches.sampler import IdentitySampler, ImageSampler
from adapt.data.batches.transforms import augment
from adapt.data.decoding.decode import DecodedCrops
from adapt.methods import Method, SiteMethod, SourceMethod
from adapt.runtime.compute import set_up
from adapt.runtime.device import peak_gpu_bytes
from adapt.training.extraction import MIN_CAMERA_CROPS, extract
from adapt.training.optimizer import build_optimizer
from adapt.types import Batch, FeatureTable, PseudoLabels, RoundOf
from models.backbones.ghost_batch_norm import group_batch_norm

CROPS_OF_A_PERSON = 40
"""In made-up features: more than any method looks at in the neighborhood of a crop."""

PATIENCE = 4.0
"""Seconds after which no further step is timed."""

MAX_STEPS = 8


@dataclass(frozen=True)
class Measured:
    """What was measured.

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
    method: SiteMethod,
    clusterer: MadeUpClusterer,
    data: DecodedCrops,
    recipe: Recipe,
    *,
    source_persons: int,
    seed: int,
    device: torch.device,
    patience: float = PATIENCE,
) -> Measured:
    """Measure extraction and training of a method; its networks are of no use afterwards.

    clusterer: the one that the method was built with. source_persons: people in the source, 0
    for a method that sees none. patience: seconds after which nothing more is timed, once there
    is one figure.
    """
    rng = np.random.default_rng(seed)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    if source_persons and isinstance(method, SourceMethod):
        dimension = method.embedder().dimension
        method.start_source(separated(source_persons, source_persons, dimension, rng))
    height, width = data.images.shape[1:3]
    set_up(method.networks().values(), recipe.compute, device, (height, width))
    _move(method, recipe.batch.ghost, device)
    own_statistics = recipe.clustering.camera_statistics
    each = _extraction(method, data, own_statistics, device, patience)
    people = recipe.batch.identities
    rows = people * CROPS_OF_A_PERSON
    tables = tuple(separated(rows, people, n.dimension, rng) for n in method.extractors())
    cameras = np.arange(rows) // people % 2
    labels = method.relabel(FeatureTable(tables, cameras), RoundOf(0, recipe.schedule.rounds))
    _move(method, recipe.batch.ghost, device)
    sets = [each_set.labels for each_set in labels]
    if source_persons:
        sets.append(np.arange(max(source_persons, people) * 2) % max(source_persons, 1))
    streams = [_batches(method, recipe, data, s, seed, device) for s in sets]
    optimizer = build_optimizer(method, recipe.optimizer)
    batches = zip(*streams, strict=True)
    activations, step_seconds = _steps(method, batches, optimizer, device, patience)
    trained = sum(_bytes(net, trained=True) for net in method.trained())
    passes = len(method.extractors()) * (2 if own_statistics else 1)
    return Measured(
        extract_seconds=each,
        embed_seconds=each / max(passes, 1),
        step_seconds=step_seconds,
        labellings=len(clusterer.asked),
        networks=sum(_bytes(net) for net in method.networks().values()),
        gradients=trained,
        optimizer=trained * (2 if recipe.optimizer.algorithm == "adam" else 1),
        activations=activations,
        device_peak=peak_gpu_bytes(device),
    )


def _move(method: Method, ghost: int, device: torch.device) -> None:
    """As the loop does it: in batch-norm groups, channels last, in train mode."""
    for net in method.networks().values():
        group_batch_norm(net, ghost)
        net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        net.train()


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


def _batches(
    method: Method,
    recipe: Recipe,
    data: DecodedCrops,
    labels: NDArray[np.int64],
    seed: int,
    device: torch.device,
) -> Iterator[Batch]:
    """Real pixels under made-up labels."""
    shape, rng = recipe.batch, np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    sampler: IdentitySampler | ImageSampler = ImageSampler(len(labels), size=shape.size, rng=rng)
    if method.sampling == "identities":
        sampler = IdentitySampler(
            labels,
            np.zeros_like(labels),
            identities=shape.identities,
            instances=shape.instances,
            across_cameras=shape.across_cameras,
            rng=rng,
        )
    for rows in sampler:
        images = torch.from_numpy(data.images[rows % len(data)]).to(device)
        views = tuple(augment(images, recipe.augment, generator) for _ in range(method.views))
        yield Batch(views, torch.from_numpy(labels[rows]).to(device), torch.from_numpy(rows))


def _steps(
    method: Method,
    batches: Iterator[tuple[Batch, ...]],
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    patience: float,
) -> tuple[int, float]:
    """Bytes that a step keeps for its backward pass, and seconds of a step after the first."""
    kept = _KeptTensors(method)
    with saved_tensors_hooks(kept.keep, lambda tensor: tensor):
        losses = method.step(next(batches))
    seconds: list[float] = []
    start = time.perf_counter()
    for number in range(MAX_STEPS + 1):
        total = losses.total()
        if total.requires_grad:
            optimizer.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        method.after_step(number)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number:  # the first one allocates, and was watched
            seconds.append(time.perf_counter() - start)
        if sum(seconds) > patience:
            break
        start = time.perf_counter()
        losses = method.step(next(batches))
    return kept.bytes, float(np.mean(seconds))


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
