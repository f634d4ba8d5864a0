"""A site changes while it gets another model: the index is what the database says at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import service.store.store
from service.errors import CallError, EnrollmentPausedError, ModelMismatchError
from service.types import EVERY_SIGHTING, Vector
from tests.support.galleries import ONE, TWO, Open, Rooms, by_hand, item, matches, model, vector

SHIFT = 1000
"""Model 2 makes of image n what model 1 would make of image n + 1000."""


async def embed_two(images: Sequence[bytes], *, hurry: bool) -> list[Vector | CallError]:
    await asyncio.sleep(0)
    return [vector(SHIFT + int(image.split()[1])) for image in images]


async def change(rooms: Rooms, known: dict[str, int], seed: int, over: asyncio.Event) -> int:
    """Enroll, replace and delete at random; returns how often that was."""
    rng = np.random.default_rng(seed)
    used, shift, changes = ONE, 0, 0
    while not over.is_set():
        name, number = f"s{rng.integers(40)}", int(rng.integers(900))
        if rng.random() < 0.4 and name in known:
            await rooms.gallery.delete_sighting("lobby", name)
            del known[name]
        else:
            new, _ = item(name, number)
            try:
                await rooms.gallery.enroll("lobby", used, [(new, vector(shift + number))])
            except EnrollmentPausedError:
                await asyncio.sleep(0)
                continue
            except ModelMismatchError:
                used, shift = TWO, SHIFT
                continue
            known[name] = number
        changes += 1
    return changes


@pytest.mark.parametrize("seed", range(3))
async def test_the_index_is_what_the_database_says(
    open_rooms: Open, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(service.store.store, "_LOAD_CHUNK", 3)
    queries = [SHIFT + n for n in (1, 500)]

    async def ask(rooms: Rooms) -> list[Any]:
        found = await rooms.gallery.search("lobby", TWO, [vector(n) for n in queries], limit=99)
        return [matches(answer) for answer in found]

    async with open_rooms("1", batch=4) as rooms:
        await rooms.gallery.create_site("lobby")
        known = {f"s{n}": n for n in range(30)}
        await rooms.gallery.enroll("lobby", ONE, [item(name, n) for name, n in known.items()])
        over = asyncio.Event()
        changing = asyncio.create_task(change(rooms, known, seed, over))
        steps = [step async for step in rooms.roll_over(model("2"), embed_two)]
        over.set()
        assert await changing
        assert steps[-1].embedded > 0
        right = [
            by_hand({name: SHIFT + n for name, n in known.items()}, query) for query in queries
        ]
        answers = await ask(rooms)
        assert answers == right
        listed = rooms.store.list_sightings("lobby", EVERY_SIGHTING, after="", limit=99)
        assert {sighting.id for sighting in listed} == set(known)
    async with open_rooms("2") as rooms:
        assert await ask(rooms) == answers
