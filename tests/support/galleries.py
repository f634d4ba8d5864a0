"""Galleries of sightings with made-up vectors, and what a search of them has to give."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from service.errors import CallError, SightingNotFoundError
from service.gallery.gallery import Gallery
from service.gallery.live_sites import LiveSites
from service.rollover.reembed import EmbedCrops
from service.rollover.rollover import Activation, Rollovers
from service.store.store import Store
from service.types import Match, ModelInfo, NewSighting, RolloverProgress, Vector

DIMENSION = 4
ONE, TWO = "1" * 64, "2" * 64
"""Fingerprints of `model("1")` and `model("2")`."""
Open = Callable[..., Any]


@dataclass(frozen=True)
class Rooms:
    """A store with its gallery, and rollovers of its sites."""

    store: Store
    sites: LiveSites
    gallery: Gallery
    rollovers: Rollovers

    def roll_over(
        self,
        to: ModelInfo,
        embed: EmbedCrops,
        *,
        site: str = "lobby",
        drop_unusable: bool = False,
        undo: bool = False,
    ) -> AsyncGenerator[RolloverProgress]:
        """The steps of a rollover."""
        activation = Activation(site, to, embed, drop_unusable, undo)
        return self.rollovers.run(site, to.reference, nullcontext(activation))


def model(version: str = "1") -> ModelInfo:
    return ModelInfo("m", version, version * 64, DIMENSION, 32, 16, "b", "source", "cpu")


def vector(number: int) -> Vector:
    row = np.random.default_rng(number).normal(size=DIMENSION)
    return np.asarray(row / np.linalg.norm(row), np.float32)


def item(sighting: str, number: int, **fields: Any) -> tuple[NewSighting, Vector]:
    new: dict[str, Any] = {"image": b"image %d" % number, "camera": f"c{number % 3}"}
    return NewSighting(id=sighting, **(new | fields)), vector(number)


def matches(answer: list[Match] | SightingNotFoundError) -> list[tuple[str, float]]:
    assert not isinstance(answer, CallError)
    return [(match.sighting.id, match.score) for match in answer]


def by_hand(numbers: dict[str, int], query: int) -> list[tuple[str, Any]]:
    wide = vector(query).astype(float)
    scores = {name: float(vector(number).astype(float) @ wide) for name, number in numbers.items()}
    ordered = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
    return [(name, pytest.approx(score, abs=1e-6)) for name, score in ordered]
