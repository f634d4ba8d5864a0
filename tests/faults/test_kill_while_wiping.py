"""kill -9 while a large site is wiped: the site stays deleted, and is wiped by the next start."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.operations.metrics import new_metrics
from service.store.records import NewRow
from service.store.store import Store
from service.types import Sighting
from tests.support.waiting import eventually

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SECRET = b"face of somebody" * 200
LARGE = 6000
KILLS = 4


def fill(database: Path, site: str) -> None:
    """Make a large site beside the small one, of the same model."""
    store = Store.open(database, new_metrics())
    (small,) = store.sites()
    store.create_site(site, small.model, NOW, lambda _: None).result(10)
    rng = np.random.default_rng(0)
    for start in range(0, LARGE, 1000):
        drawn = rng.normal(size=(1000, 24)).astype(np.float32)
        vectors = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        rows = [
            NewRow(
                Sighting(f"s{start + n}", "c1", NOW, "", "Ann Other", {}, NOW, True),
                SECRET,
                vector,
            )
            for n, vector in enumerate(vectors)
        ]
        store.enroll(
            site, small.model, rows, key=None, now=NOW, request_ttl=timedelta(hours=1),
            then=lambda _: None,
        ).result(60)  # fmt: skip
    store.close()


def rows_left(database: Path) -> int:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM sightings").fetchone()[0])


@pytest.mark.long
def test_a_deleted_site_stays_deleted_and_is_wiped(start: Callable[..., Any]) -> None:
    server = start()
    with server.client() as client:
        client.create_site("small")
    assert server.stop() == 0
    database = server.data_dir / "resight.db"
    fill(database, "large")
    assert rows_left(database) == LARGE

    server = start()
    with server.client() as client:
        assert client.site("large").sightings == LARGE
        client.delete_site("large", force=True)
    left = [LARGE]
    for _ in range(KILLS):
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        left.append(rows_left(database))
        server = start()
        with server.client() as client:
            assert [site.id for site in client.sites()] == ["small"]
    assert left == sorted(left, reverse=True), "what is wiped does not come back"
    assert left[1] > 0, "it was killed while it wiped"
    eventually(lambda: 'resight_store_deleted_seconds{file="db"} 0.0' in server.page("/metrics"))
    eventually(lambda: 'resight_store_deleted_seconds{file="wal"} 0.0' in server.page("/metrics"))
    assert rows_left(database) == 0
    with server.client() as client:
        client.create_site("large")
        assert client.site("large").sightings == 0
    on_disk = b"".join(path.read_bytes() for path in server.data_dir.glob("resight.db*"))
    assert SECRET[:16] not in on_disk
    assert b"Ann Other" not in on_disk
