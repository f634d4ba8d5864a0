"""Synthetic features to cluster."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapt.clustering.camera_centering import center_cameras

PER_PERSON = 17
"""Images of a person, as in Market-1501."""

BLOCK = 8192


@dataclass(frozen=True)
class Features:
    """features: (N, D). people, cameras: (N,) codes."""

    features: NDArray[np.floating]
    people: NDArray[np.int64]
    cameras: NDArray[np.int64]

    def subset(self, rows: NDArray[np.integer]) -> Features:
        """Some of the images."""
        return Features(self.features[rows], self.people[rows], self.cameras[rows])

    def centered(self) -> Features:
        """Each camera's mean taken away."""
        centered = center_cameras(self.features.astype(np.float32), self.cameras)
        return Features(centered, self.people, self.cameras)


def site(
    images: int,
    per_person: float,
    *,
    noise: float = 1.0,
    width: int = 128,
    seed: int = 0,
    out: NDArray[np.floating] | None = None,
) -> Features:
    """Draw people of whom every eighth part look alike, some blurred more than others, 6 cameras.

    per_person: mean of a Poisson distribution. noise: length of what tells two images of a person
    apart; a person has length 1, cameras 0.3. out: (N, width) to fill instead of float32 in memory.
    """
    rng = np.random.default_rng(seed)
    sizes = np.maximum(rng.poisson(per_person, max(2, int(2 * images / per_person))), 1)
    people = np.repeat(np.arange(len(sizes)), sizes)[:images]
    rest = rng.integers(0, people.max() + 1, images - len(people))
    people = np.concatenate([people, rest])
    count = int(people.max()) + 1
    looks = rng.normal(size=(max(2, count // 8), width))
    person = (
        0.75 * rng.normal(size=(count, width)) + 0.66 * looks[rng.integers(0, len(looks), count)]
    )
    blur = noise * rng.lognormal(0, 0.25, count)
    cameras = rng.integers(0, 6, images)
    camera = 0.3 * rng.normal(size=(6, width))
    features = np.empty((images, width), np.float32) if out is None else out
    for first in range(0, images, BLOCK):
        part = slice(first, first + BLOCK)
        own = people[part]
        image = blur[own, None] * rng.normal(size=(len(own), width))
        features[part] = (person[own] + image + camera[cameras[part]]) / np.sqrt(width)
    return Features(features, people, cameras)


def awkward(images: int, seed: int) -> NDArray[np.float32]:
    """Features with copies (one image 40 times) and hubs: images that are near to all others."""
    rng = np.random.default_rng(seed)
    features = site(images, PER_PERSON, seed=seed).features.astype(np.float32)
    common = rng.normal(size=features.shape[1]) / np.sqrt(features.shape[1])
    features += 0.8 * common
    order = rng.permutation(images)
    hubs, copies, crowd = order[:20], order[20 : 20 + images // 10], order[-40:]
    features[hubs] = common + 0.1 * features[hubs]
    features[copies] = features[rng.choice(order[-images // 2 :], len(copies))]
    features[crowd] = features[crowd[0]]
    return features
