"""Sites made of numbers: embeddings with the cameras, tracks and times of their crops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from adapt.evaluation.proxies.sightings import Sightings
from adapt.types import UNTRACKED

FeatureSite = tuple[NDArray[np.float32], Sightings]


def unit(rows: Sequence[Sequence[float]] | NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows of length 1."""
    found = np.asarray(rows, np.float64)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def sightings(
    cameras: Sequence[int],
    tracks: Sequence[int] | None = None,
    times: Sequence[float] | NDArray[np.float64] | None = None,
) -> Sightings:
    """Without tracks and times unless given."""
    count = len(cameras)
    return Sightings(
        np.array(cameras, np.int64),
        np.array([UNTRACKED] * count if tracks is None else tracks, np.int64),
        np.array([np.nan] * count if times is None else times, np.float64),
    )


def people(
    *, noise: float, shift: float, count: int = 30, cameras: int = 3, each: int = 5, seed: int = 0
) -> FeatureSite:
    """People seen by every camera on one track each, two at a time.

    noise: of a crop. shift: of a camera. Both spoil a model: larger is worse.
    """
    fixed, rng = np.random.default_rng(100), np.random.default_rng(seed)
    person = np.repeat(np.arange(count), cameras * each)
    camera = np.tile(np.repeat(np.arange(cameras), each), count)
    face, place = fixed.normal(size=(count, 24)), fixed.normal(size=(cameras, 24))
    feature = face[person] + shift * place[camera] + noise * rng.normal(size=(len(person), 24))
    frame = np.tile(np.arange(each), count * cameras)
    time = (person // 2) * 60.0 + 2.0 * frame
    return unit(feature), sightings(camera.tolist(), (person * cameras + camera).tolist(), time)
