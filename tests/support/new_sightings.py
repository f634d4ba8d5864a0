"""Sightings to enroll."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from service.types import NewSighting
from tests.support.tiny_model import crop

T0 = datetime(2026, 5, 1, 12, tzinfo=UTC)


def sightings(count: int, **fields: Any) -> list[NewSighting]:
    """Of three cameras in turn, a second apart: s00, s01, ..."""
    return [
        NewSighting(
            image=crop(n),
            camera=f"c{n % 3}",
            id=f"s{n:02d}",
            time=T0 + timedelta(seconds=n),
            **fields,
        )
        for n in range(count)
    ]
