"""Batches of a round: who is drawn, in which views.

Everything follows from seeds: a stream can be entered at any batch, which a resumed run needs.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from adapt.config import Augmentation, BatchShape
from adapt.data.batches.sampler import IdentitySampler, ImageSampler
from adapt.data.batches.transfer import ahead_of, to_device
from adapt.data.batches.transforms import augment
from adapt.data.decoding.decode import DecodedCrops
from adapt.types import Batch

LabelledSet = tuple[DecodedCrops, NDArray[np.int64]]
"""Crops and the (N,) labels to train them by, -1 for outliers."""


@dataclass(frozen=True)
class Draw:
    """How batches are drawn.

    views: independently augmented ones of each crop. sampling: see `adapt.methods.base.Method`.
    """

    shape: BatchShape
    augmentation: Augmentation
    views: int
    sampling: Literal["identities", "images"]
    device: torch.device

    def streams(
        self, sets: Sequence[LabelledSet], seed: tuple[int, ...], start: int
    ) -> Generator[tuple[Batch, ...]]:
        """A batch of each set at a time, from batch number `start` on, without end.

        Each set is drawn independently of how many there are. Close it when there was enough.
        """
        each = [self._batches(*one, (*seed, i), start) for i, one in enumerate(sets)]
        return ahead_of(self.device, zip(*each, strict=True))

    def _batches(
        self, data: DecodedCrops, labels: NDArray[np.int64], seed: tuple[int, ...], start: int
    ) -> Iterator[Batch]:
        """Each batch is augmented from a seed of its own."""
        for number, rows in enumerate(self._sampler(data, labels, np.random.default_rng(seed))):
            if number < start:
                continue
            own = np.random.SeedSequence((*seed, number)).generate_state(1, np.uint64)[0]
            generator = torch.Generator().manual_seed(int(own >> np.uint64(1)))
            images = to_device(torch.from_numpy(data.images[rows]), self.device)
            yield Batch(
                tuple(augment(images, self.augmentation, generator) for _ in range(self.views)),
                to_device(torch.from_numpy(labels[rows]), self.device),
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
            across_cameras=self.shape.across_cameras,
            rng=rng,
        )
