"""Batches: P identities with exactly S images each, or any images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from adapt.errors import ClusteringError
from adapt.types import OUTLIER
from models.wording import plural

IntArray = NDArray[np.int64]


class IdentitySampler:
    """Endless P x S batches over the labelled images of a set.

    Identities come in random order, each once per pass; an incomplete group at the end of a pass
    is dropped and the next pass reshuffles. Of an identity one image is drawn, then S-1 others,
    without replacement where there are enough. An identity with one image gives it S times (each
    time newly augmented), so a batch is always exactly P x S and laid out identity by identity.

    Source: Hermans et al. 2017 (P x K batches); the camera rule is that of MMT's public code (no
    paper has it), which instead emits single images for one-image clusters and so breaks the
    P x S layout.

    labels: (N,) int64, `OUTLIER` images are never drawn. cameras: (N,) int64 codes.
    across_cameras: whether the S-1 come from OTHER cameras than the first image where the
    identity has any there; else from all its images, as also where it has none.
    Raises ClusteringError when there are fewer than P identities.
    """

    def __init__(
        self,
        labels: IntArray,
        cameras: IntArray,
        *,
        identities: int,
        instances: int,
        across_cameras: bool,
        rng: np.random.Generator,
    ) -> None:
        if labels.shape != cameras.shape or labels.ndim != 1:
            raise ValueError(f"labels {labels.shape} and cameras {cameras.shape} differ")
        self._cameras = cameras
        self._identities = identities
        self._instances = instances
        self._across_cameras = across_cameras
        self._rng = rng
        kept = np.flatnonzero(labels != OUTLIER)
        kept = kept[np.argsort(labels[kept], kind="stable")]
        _, starts = np.unique(labels[kept], return_index=True)
        self._members: list[IntArray] = np.split(kept, starts[1:]) if len(kept) else []
        if len(self._members) < identities:
            raise ClusteringError(
                f"{plural(len(self._members), 'identity', 'identities')} cannot fill a batch of "
                f"{identities}: lower batch.identities, or change the clustering "
                "so that it finds more clusters"
            )

    def __iter__(self) -> Iterator[IntArray]:
        """Yield (P*S,) rows, for ever."""
        while True:
            order = self._rng.permutation(len(self._members))
            for start in range(0, len(order) - self._identities + 1, self._identities):
                group = order[start : start + self._identities]
                yield np.concatenate([self._draw(self._members[i]) for i in group])

    def _draw(self, members: IntArray) -> IntArray:
        first = int(self._rng.choice(members))
        others = members[:0]
        if self._across_cameras:
            others = members[self._cameras[members] != self._cameras[first]]
        if not len(others):
            others = members[members != first]
        if not len(others):
            return np.full(self._instances, first)
        wanted = self._instances - 1
        rest = self._rng.choice(others, wanted, replace=len(others) < wanted)
        return np.concatenate([[first], rest])


class ImageSampler:
    """Endless batches over all images of a set, clustered or not, each once per pass.

    An incomplete batch at the end of a pass is dropped and the next pass reshuffles. Of fewer
    images than a batch holds, some are drawn again.
    """

    def __init__(self, images: int, *, size: int, rng: np.random.Generator) -> None:
        """images: N >= 1. size: images of a batch."""
        if images < 1:
            raise ValueError("no images to sample")
        self._images = images
        self._size = size
        self._rng = rng

    def __iter__(self) -> Iterator[IntArray]:
        """Yield (size,) rows, for ever."""
        while True:
            order = self._rng.permutation(self._images)
            if self._images < self._size:
                more = self._rng.integers(0, self._images, self._size - self._images)
                order = np.concatenate([order, more])
            for start in range(0, len(order) - self._size + 1, self._size):
                yield order[start : start + self._size]
