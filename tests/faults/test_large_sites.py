"""A large site is deleted: it is gone at once, and nobody waits for all of it."""

from __future__ import annotations

import random
import shutil
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

import service.store.wiper
import service.store.wiping
from service.errors import SightingNotFoundError, SiteNotFoundError
from service.operations.metrics import new_metrics
from service.store.records import EnrollOutcome, IdempotencyKey, NewRow
from service.store.store import Store
from service.store.wiping import Pass, Wiped, wipe_chunk
from service.types import EVERY_SIGHTING
from tests.support.waiting import eventually

NOW = datetime(2026, 1, 2, tzinfo=UTC)
MODEL = "1" * 64
SECRET = b"face of somebody" * 100
LARGE = 40


def ignore(_: object) -> None:
    pass


@pytest.fixture
def large(store: Store, make_row: Callable[..., NewRow], monkeypatch: pytest.MonkeyPatch) -> Store:
    """A site that is large for chunks of 3 sightings, and another one."""
    monkeypatch.setattr(service.store.wiping, "CHUNK_ROWS", 3)
    store.register_model(MODEL, "person@1")
    for site in ("large", "other"):
        store.create_site(site, MODEL, NOW, ignore).result(10)
    rows = [make_row(f"s{n:02d}", n, image=SECRET, person="Ann Other") for n in range(LARGE)]
    enroll(store, "large", *rows, key=IdempotencyKey("r", "x")).result(10)
    return store


def enroll(
    store: Store,
    site: str,
    *rows: NewRow,
    key: IdempotencyKey | None = None,
    then: Callable[[EnrollOutcome], None] = ignore,
) -> Future[EnrollOutcome]:
    return store.enroll(
        site, MODEL, rows, key=key, now=NOW, request_ttl=timedelta(hours=1), then=then
    )


def at_each_chunk(monkeypatch: pytest.MonkeyPatch, call: Callable[[int], None]) -> None:
    """Call a function, by the writer's thread, before each chunk; with the chunk's number."""
    chunks = 0

    def watched(connection: Connection, going: Pass | None) -> Wiped:
        nonlocal chunks
        call(chunks)
        chunks += 1
        return wipe_chunk(connection, going)

    monkeypatch.setattr(service.store.wiper, "wipe_chunk", watched)


def test_others_write_between_two_chunks(
    large: Store, make_row: Callable[..., NewRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    written: list[Future[Any]] = []

    def chunk(number: int) -> None:
        order.append(f"chunk {number}")
        if number < 10:
            row = make_row(f"n{number}", number)
            written.append(
                enroll(large, "other", row, then=lambda _: order.append(f"write {number}"))
            )

    at_each_chunk(monkeypatch, chunk)
    large.delete_site("large", force=True, then=ignore).result(10)
    eventually(lambda: not large.wiping)
    assert [future.result(10).numbers for future in written]
    for number in range(10):
        # It came during a chunk, and waited for at most the one that came next.
        assert order.index(f"write {number}") < order.index(f"chunk {number + 2}")
    assert order.index("chunk 13") > 0, "it takes a chunk for each three sightings"


def test_a_deleted_site_is_gone_at_once_and_its_name_is_free(
    large: Store, make_row: Callable[..., NewRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    numbers = list(range(1, LARGE + 1))
    assert large.sightings_by_number(numbers)

    def chunk(_: int) -> None:
        entered.set()
        assert go_on.wait(60)

    at_each_chunk(monkeypatch, chunk)
    large.delete_site("large", force=True, then=ignore).result(10)
    assert entered.wait(10)
    assert large.wiping
    reads: list[Callable[[], object]] = [
        lambda: large.site("large"),
        lambda: large.sighting("large", "s00"),
        lambda: large.list_sightings("large", EVERY_SIGHTING, after="", limit=9),
        lambda: large.earlier_model("large"),
        lambda: large.earlier_outcome("large", MODEL, IdempotencyKey("r", "x"), NOW),
    ]
    for read in reads:
        with pytest.raises(SiteNotFoundError):
            read()
    assert large.crop("large", "s00") is None
    assert large.sightings_by_id("large", ["s00"]) == {}
    assert large.sightings_by_number(numbers) == {}
    assert list(large.index_entries("large", MODEL, 4)) == []
    assert large.crops_without_embedding("large", "2" * 64, after=0, limit=9) == []
    assert large.count_embedded("large", MODEL) == 0
    assert [site.id for site in large.sites()] == ["other"]
    created = large.create_site("large", MODEL, NOW, ignore)
    row = make_row("s00", 77, image=b"new", person="")
    enrolled = enroll(large, "large", row, key=IdempotencyKey("r", "other content"))
    go_on.set()
    created.result(10)
    assert not enrolled.result(10).repeated
    eventually(lambda: not large.wiping)
    assert large.site("large").sightings == 1
    assert large.crop("large", "s00") == b"new"
    with pytest.raises(SightingNotFoundError):
        large.sighting("large", "s01")


def test_a_crash_in_the_middle_is_made_up_for_at_the_next_start(
    large: Store, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed = tmp_path / "crashed" / database.name
    crashed.parent.mkdir()

    def chunk(number: int) -> None:
        if number == 4:  # as kill -9 leaves the files
            for path in (database, database.with_name(f"{database.name}-wal")):
                shutil.copy(path, crashed.parent / path.name)

    at_each_chunk(monkeypatch, chunk)
    large.delete_site("large", force=True, then=ignore).result(10)
    eventually(lambda: not large.wiping)
    monkeypatch.undo()
    with closing(sqlite3.connect(crashed)) as connection:
        left = connection.execute("SELECT count(*) FROM sightings").fetchone()
    assert left == (LARGE - 12,)
    again = Store.open(crashed, new_metrics())
    eventually(lambda: not again.wiping)
    on_disk = b"".join(path.read_bytes() for path in crashed.parent.iterdir())
    assert [site.id for site in again.sites()] == ["other"]
    again.close()
    assert SECRET[:16] not in on_disk
    assert b"Ann Other" not in on_disk
    with closing(sqlite3.connect(crashed)) as connection:
        for count in (
            "SELECT count(*) FROM sightings",
            "SELECT count(*) FROM crops",
            "SELECT count(*) FROM embeddings",
            "SELECT count(*) FROM requests",
        ):
            assert connection.execute(count).fetchone() == (0,)


def test_nothing_of_a_deleted_site_is_left_on_the_disk(large: Store, database: Path) -> None:
    large.delete_site("large", force=True, then=ignore).result(10)
    eventually(lambda: not large.wiping)
    on_disk = b"".join(path.read_bytes() for path in database.parent.iterdir())
    assert SECRET[:16] not in on_disk
    assert b"Ann Other" not in on_disk


@pytest.mark.parametrize("seed", [0, 1])
def test_a_vacuum_leaves_nothing_of_deleted_sightings_in_any_page(
    store: Store, make_row: Callable[..., NewRow], database: Path, seed: int
) -> None:
    """SQLite leaves parts of rows that it moves in unused parts of pages, as docs/service.md says.

    With these seeds it does.
    """
    drawn = random.Random(seed)
    store.register_model(MODEL, "person@1")
    ids: dict[str, str] = {}
    for site in ("large", "other"):
        store.create_site(site, MODEL, NOW, ignore).result(10)
    for number in range(200):
        site, tag = drawn.choice(["large", "other"]), f"secret{number:05d}"
        image = tag.encode() * drawn.choice([9, 30, 90, 700])
        person = tag + "p" * drawn.randrange(90)
        enroll(store, site, make_row(tag, number, image=image, person=person)).result(10)
        ids[tag] = site
    gone = drawn.sample(sorted(ids), 120)
    for sighting in gone:
        store.delete_sighting(ids[sighting], sighting, ignore).result(10)
    eventually(lambda: not store.wiping)
    store.close()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("VACUUM")
    on_disk = b"".join(path.read_bytes() for path in database.parent.iterdir())
    assert not [each for each in gone if each.encode() in on_disk]
    assert all(each.encode() in on_disk for each in ids.keys() - set(gone))
