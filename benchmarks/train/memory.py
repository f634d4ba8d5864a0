"""What adaptation holds in memory: each method's peak, and what 100,000 crops add.

Linux tells resident pages of files from those of the process's own (RssAnon): crops that are
mapped from their file count as the first, which the system takes back when it needs room.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.clustering.camera_centering import center_cameras
from adapt.clustering.labels.centers import cluster_centers
from adapt.clustering.labels.kmeans import cluster_kmeans
from adapt.config import Augmentation, BatchShape
from adapt.data.decoding.decode import DecodedCrops
from adapt.data.decoding.mapped_file import MappedCrops
from adapt.errors import AdaptError
from adapt.methods import METHODS
from adapt.runtime.disk_arrays import Scratch
from adapt.training.batches import Draw
from adapt.training.extraction import extract
from adapt.types import CropSet, FeatureTable, Sample
from benchmarks.alone import alone, memory
from benchmarks.train.kills import CPU, adapted, source_run
from benchmarks.train.site import write_site

HEIGHT, WIDTH, DIMENSION, CLUSTERS = 64, 32, 2048, 500
MEANS = 50
"""K of k-means, and one start instead of ten: hours otherwise. A center takes some 16 KB in each of
a few arrays."""

STEPS = 20
AT_ONCE = 1000
ALLOWED = 1.5e9
"""Bytes that 100,000 crops may need beside their file."""


class Embedder(nn.Module):
    """As wide as a ResNet-50's embedding and next to no work: some pixels, repeated."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension

    def embed(self, x: Tensor) -> Tensor:
        """(B,3,H,W) -> (B,D) of unit length."""
        some = x[:, :, ::8, ::8].flatten(1)
        wide = some.repeat(1, -(-self.dimension // some.shape[1]))[:, : self.dimension]
        return F.normalize(wide, dim=1)


@dataclass
class Peak:
    """bytes: most own memory so far, beyond what there was at the beginning."""

    bytes: int = 0


@contextmanager
def watched(start: int) -> Iterator[Peak]:
    """Look at the process's own memory every few milliseconds."""
    peak, over = Peak(), threading.Event()

    def look() -> None:
        while not over.wait(0.005):
            peak.bytes = max(peak.bytes, memory("RssAnon") - start)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def print_table(folder: Path, crops: int) -> None:
    """Print both."""
    print("| method | peak, MB |")
    print("|---|---|")
    write_site(folder / "site", crops=240, clusters=24)
    inits = [alone(source_run, folder, seed) for seed in (1, 2)]
    for name in sorted(METHODS):
        peak, ended = alone(_peak_of, folder, inits, name)
        print(f"| {name} | {peak / 1e6:.0f}{ended} |", flush=True)
    print()
    print(f"{crops} crops, {DIMENSION} dimensions, two networks; own memory beyond the file's, MB:")
    for stage, held in alone(_stages, folder, crops):
        print(f"- {stage}: {held / 1e6:.0f} ({'within' if held <= ALLOWED else 'BEYOND'} 1500)")


def _peak_of(folder: Path, inits: list[Path], method: str) -> tuple[int, str]:
    """Bytes, and how the run ended if it was not well: made-up crops may not suit a method."""
    ended = ""
    try:
        adapted(folder, inits, method, folder / f"run-{method}")
    except AdaptError as error:
        ended = f" ({error.reason})"
    return memory("VmHWM"), ended


def _stages(folder: Path, crops: int) -> list[tuple[str, int]]:
    """Peak of each part of a round but for the re-ranked graph, which benchmarks/graph measures."""
    start = memory("RssAnon")
    stages = []
    with watched(start) as peak:
        images = MappedCrops(folder).allocate((crops, HEIGHT, WIDTH, 3))
        rng = np.random.default_rng(0)
        for first in range(0, crops, AT_ONCE):
            block = images[first : first + AT_ONCE]
            block[:] = rng.integers(0, 256, block.shape, np.uint8)
        samples = tuple(Sample(Path(f"{n:06d}.jpg"), f"{n:06d}.jpg", n % 8) for n in range(crops))
        data = DecodedCrops(CropSet(folder, samples, tuple("abcdefgh")), images)
        time.sleep(0.1)
    stages.append(("crops listed and mapped", peak.bytes))
    with watched(start) as peak:
        nets = [Embedder(DIMENSION), Embedder(DIMENSION)]
        allocate = Scratch(folder).table
        tables = extract(nets, data.images, device=CPU, allocate=allocate)  # type: ignore[arg-type]
    stages.append(("embeddings of two networks", peak.bytes))
    labels = np.arange(crops) % CLUSTERS
    with watched(start) as peak:
        mean = FeatureTable(tables, data.crops.camera_codes, allocate).mean()
        cluster_centers(mean, labels, normalize=True)
    stages.append(("their mean and the clusters' centers", peak.bytes))
    with watched(start) as peak:
        centered = center_cameras(mean, data.crops.camera_codes, allocate)
        cluster_kmeans(centered, min(MEANS, crops), seed=0, starts=1, allocate=allocate)
    stages.append(("centered by camera, k-means", peak.bytes))
    del tables, mean, centered
    with watched(start) as peak:
        draw = Draw(BatchShape(), Augmentation(), 2, "identities", torch.device("cpu"))
        batches = draw.streams([(data, labels)], (0, 0), 0)
        for _ in range(STEPS):
            next(batches)
    stages.append(("batches", peak.bytes))
    return stages
