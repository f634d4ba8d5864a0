"""How long a site waits while another, large one is deleted, or gets another model.

    python -m benchmarks.pressure.large_sites [--deleted 200000] [--moved 100000]

The galleries are in this process, with a database in a temporary folder. Vectors and crops are
filled in directly. Meanwhile one caller enrolls one sighting after the other into a small site.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from service.errors import CallError
from service.gallery.gallery import Gallery, GallerySettings
from service.gallery.live_sites import LiveSites
from service.operations.metrics import new_metrics
from service.rollover.rollover import Activation, Rollovers
from service.store.store import Store
from service.types import ModelInfo, NewSighting, Vector

DIMENSION = 128
CROP = b"a crop of a person" * 120
NOW = datetime(2026, 1, 1, tzinfo=UTC)
_ROWS_AT_A_TIME = 2000


@dataclass(frozen=True)
class Waits:
    """Enrollments into the small site while something else ran for `wall_s` seconds."""

    wall_s: float
    calls: int
    p99_s: float
    longest_s: float

    def line(self, name: str) -> str:
        """For the table."""
        return (
            f"{name:<36} {self.wall_s:7.2f} s  calls {self.calls:6d}  "
            f"p99 {self.p99_s:7.3f} s  longest {self.longest_s:7.3f} s"
        )


class Rooms:
    """The parts of a server that keep galleries; its own model is `models[0]`."""

    def __init__(self, database: Path) -> None:
        self.models = [
            ModelInfo("m", str(n), str(n) * 64, DIMENSION, 32, 16, "b", "source", "cpu")
            for n in (1, 2, 3)
        ]
        metrics = new_metrics()
        self.store = Store.open(database, metrics)
        sites = LiveSites(self.store, metrics)
        self.gallery = Gallery(
            self.store,
            sites,
            self.models[0],
            GallerySettings(True, request_ttl=timedelta(hours=1), search_threads=2),
            clock=lambda: datetime.now(UTC),
            new_id=lambda: uuid4().hex,
            metrics=metrics,
        )
        self.gallery.load()
        self.rollovers = Rollovers(
            self.store, sites, batch=256, clock=lambda: datetime.now(UTC), metrics=metrics
        )

    def close(self) -> None:
        """End all threads."""
        self.gallery.close()
        self.store.close()


def unit_vectors(rows: int, seed: int) -> NDArray[np.float32]:
    """(rows, D) random vectors of unit length."""
    drawn = np.random.default_rng(seed).normal(size=(rows, DIMENSION)).astype(np.float32)
    made: NDArray[np.float32] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return made


async def fill(rooms: Rooms, site: str, rows: int) -> None:
    """Make a site of so many sightings."""
    await rooms.gallery.create_site(site)
    for start in range(0, rows, _ROWS_AT_A_TIME):
        count = min(_ROWS_AT_A_TIME, rows - start)
        vectors = unit_vectors(count, start)
        outcome = await rooms.gallery.enroll(
            site,
            rooms.models[0].fingerprint,
            [
                (NewSighting(CROP, f"c{n % 8}", id=f"s{start + n:08d}", person=f"p{n}"), vector)
                for n, vector in enumerate(vectors)
            ],
        )
        assert not any(isinstance(result, CallError) for result in outcome)


async def enroll_again(rooms: Rooms, site: str, rows: int) -> None:
    """Replace the first sightings of a site."""
    for start in range(0, rows, _ROWS_AT_A_TIME // 8):
        numbers = range(start, min(start + _ROWS_AT_A_TIME // 8, rows))
        vectors = unit_vectors(len(numbers), start)
        await rooms.gallery.enroll(
            site,
            rooms.models[0].fingerprint,
            [
                (NewSighting(CROP, "c1", id=f"s{n:08d}"), vector)
                for n, vector in zip(numbers, vectors, strict=True)
            ],
        )


async def add_vectors(rooms: Rooms, site: str, model: ModelInfo) -> None:
    """Let all sightings of a site have vectors of a model."""
    rooms.store.register_model(model.fingerprint, model.reference)
    after = 0
    while page := rooms.store.crops_without_embedding(
        site, model.fingerprint, after=after, limit=_ROWS_AT_A_TIME
    ):
        after = page[-1].row
        made = unit_vectors(len(page), after)
        vectors = {crop.row: vector for crop, vector in zip(page, made, strict=True)}
        await asyncio.wrap_future(rooms.store.add_embeddings(model.fingerprint, vectors))


async def waits_during(rooms: Rooms, work: Callable[[], Awaitable[None]]) -> Waits:
    """Enroll into the small site from before until after the work."""
    vector: Vector = unit_vectors(1, 7)[0]
    waited: list[float] = []
    stop = asyncio.Event()

    async def enroll() -> None:
        model = rooms.models[0].fingerprint
        while not stop.is_set():
            started = perf_counter()
            await rooms.gallery.enroll("small", model, [(NewSighting(CROP, "c1"), vector)])
            waited.append(perf_counter() - started)

    caller = asyncio.create_task(enroll())
    await asyncio.sleep(0.2)
    started = perf_counter()
    await work()
    wall = perf_counter() - started
    stop.set()
    await caller
    return Waits(wall, len(waited), float(np.quantile(waited, 0.99)), max(waited))


async def roll_over(rooms: Rooms, model: ModelInfo) -> None:
    """Let the site `moved`, which has vectors of the model, use it."""

    async def embed(images: Sequence[bytes], *, hurry: bool) -> list[Vector | CallError]:
        raise AssertionError(f"{len(images)} sightings have no vectors (hurry: {hurry})")

    activation = nullcontext(Activation("moved", model, embed, drop_unusable=False))
    async with aclosing(rooms.rollovers.run("moved", model.reference, activation)) as steps:
        async for _ in steps:
            pass


async def wiped(rooms: Rooms) -> None:
    """Wait until nothing deleted is left in the database."""
    while rooms.store.wiping:
        await asyncio.sleep(0.05)


async def measure(folder: Path, deleted: int, moved: int) -> None:
    """Print the table."""
    rooms = Rooms(folder / "resight.db")
    try:
        await rooms.gallery.create_site("small")

        async def idle() -> None:
            await asyncio.sleep(2)

        print((await waits_during(rooms, idle)).line("nothing else"), flush=True)

        await fill(rooms, "deleted", deleted)

        async def again() -> None:
            await enroll_again(rooms, "deleted", deleted // 2)

        name = f"enroll half of {deleted} again"
        print((await waits_during(rooms, again)).line(name), flush=True)

        async def delete() -> None:
            await rooms.gallery.delete_site("deleted", force=True)
            await wiped(rooms)

        print((await waits_during(rooms, delete)).line(f"delete a site of {deleted}"), flush=True)

        await fill(rooms, "moved", moved)
        for model, name in (
            (rooms.models[1], f"second model of a site of {moved}"),
            (rooms.models[2], "third model, those of the first go"),
        ):
            await add_vectors(rooms, "moved", model)

            async def activate(model: ModelInfo = model) -> None:
                await roll_over(rooms, model)
                await wiped(rooms)

            print((await waits_during(rooms, activate)).line(name), flush=True)
    finally:
        rooms.close()


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--deleted", type=int, default=200_000)
    parser.add_argument("--moved", type=int, default=100_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), given.deleted, given.moved))


if __name__ == "__main__":
    main()
