from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle import Bundle
from service.gallery.gallery import Gallery
from service.operations.metrics import Metrics, new_metrics
from service.store.records import NewRow
from service.store.store import Store
from service.types import Sighting
from tests.support.galleries import DIMENSION, model
from tests.support.tiny_model import write_tiny_bundle


class FakeClock:
    """A time that only moves when told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **amount: float) -> None:
        self.now += timedelta(**amount)


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
def open_gallery(
    database: Path, clock: Callable[[], datetime], new_id: Callable[[], str]
) -> Callable[..., Any]:
    """A gallery on the test's database; leaving the block closes it like a server that stops."""

    @asynccontextmanager
    async def opened(
        version: str = "1",
        keep_crops: bool = True,
        metrics: Metrics | None = None,
        open_store: Callable[[Path, Metrics], Store] = Store.open,
    ) -> AsyncIterator[Gallery]:
        metrics = metrics or new_metrics()
        store = open_store(database, metrics)
        gallery = Gallery(
            store,
            model(version),
            clock=clock,
            new_id=new_id,
            keep_crops=keep_crops,
            request_ttl=timedelta(hours=1),
            search_threads=2,
            metrics=metrics,
        )
        try:
            gallery.load()
            yield gallery
        finally:
            gallery.close()
            store.close()

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
