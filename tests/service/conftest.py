from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle import Bundle
from service.gallery.gallery import Gallery, GallerySettings
from service.gallery.live_sites import LiveSites
from service.operations.metrics import Metrics, new_metrics
from service.rollover.rollover import Rollovers
from service.store.records import NewRow
from service.store.store import Store
from service.types import ModelInfo, Sighting
from tests.support.fake_clock import FakeClock
from tests.support.galleries import DIMENSION, Rooms, model
from tests.support.tiny_model import write_tiny_bundle


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def new_id() -> Callable[[], str]:
    numbers = count(1)
    return lambda: f"made-{next(numbers):03d}"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "resight.db"


@pytest.fixture
def store(database: Path, metrics: Metrics) -> Iterator[Store]:
    store = Store.open(database, metrics)
    yield store
    store.close()


@pytest.fixture
def make_row() -> Callable[..., NewRow]:
    """A row; number decides the vector. Fields of the sighting can be given."""

    def make(
        sighting: str, number: int = 0, image: bytes | None = b"image", **fields: object
    ) -> NewRow:
        vector = np.random.default_rng(number).normal(size=DIMENSION)
        seen: dict[str, object] = {
            "id": sighting,
            "camera": "c1",
            "time": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number),
            "track": "",
            "person": "",
            "attributes": {"n": str(number)},
            "created": datetime(2026, 1, 2, tzinfo=UTC),
            "crop_kept": image is not None,
        }
        return NewRow(
            Sighting(**(seen | fields)),  # type: ignore[arg-type]
            image,
            np.asarray(vector / np.linalg.norm(vector), np.float32),
        )

    return make


@pytest.fixture
def open_rooms(
    database: Path, clock: Callable[[], datetime], new_id: Callable[[], str]
) -> Callable[..., AbstractAsyncContextManager[Rooms]]:
    """Rooms on the test's database; leaving the block closes them like a server that stops.

    own: the server's own model, as such or by its version. batch: crops per step of a rollover.
    """

    @asynccontextmanager
    async def opened(
        own: str | ModelInfo = "1",
        keep_crops: bool = True,
        batch: int = 2,
        metrics: Metrics | None = None,
        open_store: Callable[[Path, Metrics], Store] = Store.open,
    ) -> AsyncIterator[Rooms]:
        metrics = metrics or new_metrics()
        store = open_store(database, metrics)
        sites = LiveSites(store, metrics)
        gallery = Gallery(
            store,
            sites,
            model(own) if isinstance(own, str) else own,
            GallerySettings(keep_crops, request_ttl=timedelta(hours=1), search_threads=2),
            clock=clock,
            new_id=new_id,
            metrics=metrics,
        )
        try:
            gallery.load()
            rollovers = Rollovers(store, sites, batch=batch, clock=clock, metrics=metrics)
            yield Rooms(store, sites, gallery, rollovers)
        finally:
            gallery.close()
            store.close()

    return opened


@pytest.fixture
def open_gallery(
    open_rooms: Callable[..., AbstractAsyncContextManager[Rooms]],
) -> Callable[..., AbstractAsyncContextManager[Gallery]]:
    """The gallery of `open_rooms`."""

    @asynccontextmanager
    async def opened(*args: Any, **named: Any) -> AsyncIterator[Gallery]:
        async with open_rooms(*args, **named) as rooms:
            yield rooms.gallery

    return opened


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Another model: version 2 of `tiny_bundle`, with other vectors."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "other", version="2", shift=40.0)


@pytest.fixture
def metrics() -> Metrics:
    return new_metrics()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"
