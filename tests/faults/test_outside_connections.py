"""Another process has the database open: it delays nobody, and nothing is lost."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.errors import StoreBusyError
from service.operations.metrics import Metrics, new_metrics
from service.store.records import NewRow
from service.store.store import Store
from service.types import EVERY_SIGHTING
from tests.support.waiting import eventually

NOW = datetime(2026, 1, 2, tzinfo=UTC)
MODEL = "1" * 64


def ignore(_: object) -> None:
    pass


@pytest.fixture
def lobby(store: Store) -> Store:
    store.register_model(MODEL, "person@1")
    store.create_site("lobby", MODEL, NOW, ignore).result(10)
    return store


@pytest.fixture
def outside(database: Path, lobby: Store) -> Iterator[sqlite3.Connection]:
    """Another connection, as a backup or an inspection opens it."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        yield connection


def enroll(store: Store, row: NewRow) -> None:
    store.enroll(
        "lobby", MODEL, [row], key=None, now=NOW, request_ttl=timedelta(hours=1), then=ignore
    ).result(10)


def deleted_s(metrics: Metrics) -> float:
    value = metrics.registry.get_sample_value("resight_store_deleted_seconds", {"file": "wal"})
    assert value is not None
    return value


def test_a_reader_and_a_deletion_hold_up_no_write(
    lobby: Store,
    outside: sqlite3.Connection,
    database: Path,
    metrics: Metrics,
    make_row: Callable[..., NewRow],
    caplog: pytest.LogCaptureFixture,
) -> None:
    log_file = database.with_name(f"{database.name}-wal")
    enroll(lobby, make_row("secret", person="Ann Other"))
    outside.execute("BEGIN")
    outside.execute("SELECT count(*) FROM sightings").fetchone()
    lobby.delete_sighting("lobby", "secret", ignore).result(10)
    for number in range(20):  # each waited 30 s
        enroll(lobby, make_row(f"s{number}"))
    assert deleted_s(metrics) > 0
    assert log_file.stat().st_size > 0
    eventually(lambda: bool(caplog.records))  # with the second attempt
    outside.execute("COMMIT")
    eventually(lambda: deleted_s(metrics) == 0)  # without another write
    assert b"Ann Other" not in log_file.read_bytes() + database.read_bytes()
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1
    assert "tried again until it is done" in warned[0].getMessage()


def test_the_store_closes_while_a_reader_is_in_the_way(
    lobby: Store,
    outside: sqlite3.Connection,
    database: Path,
    make_row: Callable[..., NewRow],
) -> None:
    enroll(lobby, make_row("secret", person="Ann Other"))
    outside.execute("BEGIN")
    outside.execute("SELECT count(*) FROM sightings").fetchone()
    lobby.delete_sighting("lobby", "secret", ignore).result(10)
    lobby.close()
    outside.execute("COMMIT")
    outside.close()
    again = Store.open(database, new_metrics())
    assert database.with_name(f"{database.name}-wal").stat().st_size == 0
    again.close()


def test_a_write_of_another_process_refuses_writes_that_can_be_repeated(
    lobby: Store, outside: sqlite3.Connection, make_row: Callable[..., NewRow]
) -> None:
    outside.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusyError, match="another process holds") as refused:
        enroll(lobby, make_row("a"))
    assert refused.value.retry_after_s is not None
    assert lobby.list_sightings("lobby", EVERY_SIGHTING, after="", limit=9) == []
    outside.execute("ROLLBACK")
    enroll(lobby, make_row("a"))
    assert [s.id for s in lobby.list_sightings("lobby", EVERY_SIGHTING, after="", limit=9)] == ["a"]


def test_a_backup_of_the_documented_kind_is_whole_and_can_be_served(
    lobby: Store,
    outside: sqlite3.Connection,
    tmp_path: Path,
    make_row: Callable[..., NewRow],
) -> None:
    for number in range(5):
        enroll(lobby, make_row(f"s{number}", number))
    backup = tmp_path / "backup.db"
    outside.execute("VACUUM INTO ?", [str(backup)])
    lobby.delete_sighting("lobby", "s0", ignore).result(10)
    restored = Store.open(backup, new_metrics())
    kept = restored.list_sightings("lobby", EVERY_SIGHTING, after="", limit=9)
    assert [sighting.id for sighting in kept] == ["s0", "s1", "s2", "s3", "s4"]
    assert restored.crop("lobby", "s0") == b"image"
    enroll(restored, make_row("next"))
    restored.close()
