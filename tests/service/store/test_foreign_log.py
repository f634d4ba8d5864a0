from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.errors import StoreUnusableError
from service.operations.metrics import new_metrics
from service.store.foreign_log import refuse_foreign_log
from service.store.records import NewRow
from service.store.store import Store
from service.types import EVERY_SIGHTING

ONE = "1" * 64
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def number_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


@pytest.fixture
def crashed(tmp_path: Path, make_row: Callable[..., NewRow]) -> Callable[[str], Path]:
    """Makes a database, as a killed server leaves it, with sightings that only its log has."""

    def make(name: str) -> Path:
        live, left = (tmp_path / f"{name}-{folder}" / "resight.db" for folder in ("live", "left"))
        for path in (live, left):
            path.parent.mkdir()
        Store.open(live, new_metrics()).close()
        store = Store.open(live, new_metrics())
        store.register_model(ONE, "person@1")
        store.create_site("lobby", ONE, NOW, lambda _: None).result(10)
        rows = [make_row(f"{name}{number}", image=bytes(5000)) for number in range(5)]
        store.enroll(
            "lobby",
            ONE,
            rows,
            key=None,
            now=NOW,
            request_ttl=timedelta(hours=1),
            then=lambda _: None,
        ).result(10)
        for path in (live, log_of(live)):
            shutil.copy(path, left.parent / path.name)
        store.close()
        return left

    return make


def test_a_log_of_another_database_is_refused_and_both_stay_as_they_are(
    crashed: Callable[[str], Path],
) -> None:
    path, other = crashed("a"), crashed("b")
    own = log_of(path).read_bytes()
    shutil.copy(log_of(other), log_of(path))
    before = path.read_bytes(), log_of(path).read_bytes()
    says = f"write-ahead log {log_of(path)} is of another database than {path} .*put the log back"
    with pytest.raises(StoreUnusableError, match=re.compile(says)):
        Store.open(path, new_metrics())
    assert (path.read_bytes(), log_of(path).read_bytes()) == before
    log_of(path).write_bytes(own)
    store = Store.open(path, new_metrics())
    found = store.list_sightings("lobby", EVERY_SIGHTING, after="", limit=9)
    assert [sighting.id for sighting in found] == ["a0", "a1", "a2", "a3", "a4"]
    store.close()


def test_each_database_keeps_a_number_of_its_own(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        Store.open(path, new_metrics()).close()
    numbers = [number_of(path) for path in paths]
    assert 0 not in numbers
    assert numbers[0] != numbers[1]
    Store.open(paths[0], new_metrics()).close()
    assert number_of(paths[0]) == numbers[0]


def test_a_database_without_a_number_gets_one(crashed: Callable[[str], Path]) -> None:
    path = crashed("a")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=0")
    Store.open(path, new_metrics()).close()
    assert number_of(path) != 0


@pytest.mark.parametrize("bytes_", [0, 10, 31, 32, 40, 56, 60])
def test_a_log_without_a_whole_page_is_not_refused(
    crashed: Callable[[str], Path], bytes_: int
) -> None:
    path, other = crashed("a"), crashed("b")
    log_of(path).write_bytes(log_of(other).read_bytes()[:bytes_])
    refuse_foreign_log(path)


def test_what_is_left_of_an_earlier_log_is_not_looked_at(crashed: Callable[[str], Path]) -> None:
    path, other = crashed("a"), crashed("b")
    log = bytearray(log_of(other).read_bytes())
    log[16] ^= 1  # the salt of a log that begins anew: it has no frame yet
    log_of(path).write_bytes(log)
    refuse_foreign_log(path)


def test_a_database_or_a_log_alone_is_not_refused(crashed: Callable[[str], Path]) -> None:
    path = crashed("a")
    log = log_of(path).read_bytes()
    log_of(path).unlink()
    refuse_foreign_log(path)
    log_of(path).write_bytes(log)
    path.unlink()
    refuse_foreign_log(path)


def test_what_sqlite_takes_for_no_log_is_neither_refused_nor_read(
    crashed: Callable[[str], Path],
) -> None:
    path, other = crashed("a"), crashed("b")
    log_of(path).write_bytes(bytes(4) + log_of(other).read_bytes()[4:])
    refuse_foreign_log(path)
    with log_of(path).open("wb") as file:  # a loss of power can leave zeros
        file.truncate(2**40)
    refuse_foreign_log(path)
