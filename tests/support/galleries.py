"""Sightings with made-up vectors, and what a search of them has to give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from service.errors import CallError, SightingNotFoundError
from service.types import Match, ModelInfo, NewSighting, Vector

DIMENSION = 4
Open = Callable[..., Any]


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


def by_hand(numbers: dict[str, int], query: int) -> list[tuple[str, float]]:
    wide = vector(query).astype(float)
    scores = {name: float(vector(number).astype(float) @ wide) for name, number in numbers.items()}
    ordered = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
    return [(name, pytest.approx(score, abs=1e-6)) for name, score in ordered]
