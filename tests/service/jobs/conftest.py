from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from models.job_contract import Job
from service.jobs.rows import JobRows
from service.operations.metrics import Metrics
from service.store.records import NewRow
from service.store.store import Store
from service.types import Sighting

ONE = "1" * 64
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
JOB = Job(
    method="mmt",
    recipe="mmt_small",
    overrides=("optimizer.lr=1e-4",),
    seed=1,
    device="cpu",
    inits=(Path("/init"),),
    sources=(),
    hold_back=0.2,
    name="lobby",
    version="1",
)


@pytest.fixture
def store(tmp_path: Path, metrics: Metrics) -> Iterator[Store]:
    """A store with the site `lobby`, which keeps two crops."""
    store = Store.open(tmp_path / "resight.db", metrics)
    store.register_model(ONE, "person@1")
    store.create_site("lobby", ONE, NOW, lambda _: None).result(10)
    yield store
    store.close()


@pytest.fixture
def enroll(store: Store) -> Callable[..., None]:
    """Store a sighting of the lobby; fields of the sighting can be given."""

    def stored(
        sighting: str,
        image: bytes | None = b"\xff\xd8\xff image",
        site: str = "lobby",
        **fields: object,
    ) -> None:
        seen: dict[str, object] = {
            "id": sighting,
            "camera": "door",
            "time": NOW,
            "track": "",
            "person": "",
            "attributes": {},
            "created": NOW,
            "crop_kept": image is not None,
        }
        row = NewRow(Sighting(**(seen | fields)), image, np.ones(4, np.float32) / 2)  # type: ignore[arg-type]
        store.enroll(
            site,
            ONE,
            [row],
            key=None,
            now=NOW,
            request_ttl=timedelta(hours=1),
            then=lambda _: None,
        ).result(10)

    return stored


@pytest.fixture
def rows(store: Store, enroll: Callable[..., None]) -> JobRows:
    enroll("a", camera="door")
    enroll("b", camera="yard")
    return JobRows(store)
