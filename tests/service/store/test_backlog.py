from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

import service.store.backlog
from service.errors import StoreBusyError
from service.store.backlog import Backlog
from service.store.sqlite import move_log, open_sqlite
from tests.support.waiting import eventually


@pytest.fixture
def engines(database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Engine, Engine]]:
    monkeypatch.setattr(service.store.backlog, "LARGE_BYTES", 100_000)
    monkeypatch.setattr(service.store.backlog, "MAX_PAGES", 10)
    reader, writer = open_sqlite(database)
    with writer.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x)")
    yield reader, writer
    reader.dispose()
    writer.dispose()


@pytest.fixture
def outside(database: Path, engines: object) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        yield connection


def at_once(work: Callable[[], None]) -> Future[None]:
    done: Future[None] = Future()
    work()
    done.set_result(None)
    return done


def write(writer: Engine, size: int) -> None:
    with writer.begin() as connection:
        connection.exec_driver_sql("INSERT INTO t VALUES (zeroblob(?))", (size,))


def moves_at_commits(writer: Engine) -> bool:
    with closing(writer.raw_connection()) as connection:
        found: Any = connection.cursor().execute("PRAGMA wal_autocheckpoint").fetchone()
    return bool(found[0])


def log_file(database: Path) -> Path:
    return database.with_name(f"{database.name}-wal")


def read(outside: sqlite3.Connection) -> None:
    outside.execute("BEGIN")
    outside.execute("SELECT count(*) FROM t").fetchone()


def test_a_large_log_is_moved_beside_the_writer(
    database: Path, engines: tuple[Engine, Engine], outside: sqlite3.Connection
) -> None:
    reader, writer = engines
    backlog = Backlog(log_file(database), reader, writer, at_once, poll_s=3600)
    read(outside)
    write(writer, 50_000)
    backlog.look()
    assert moves_at_commits(writer), "it is not large"
    write(writer, 8_000_000)
    backlog.look()
    assert not moves_at_commits(writer)
    outside.execute("COMMIT")
    write(writer, 10)
    assert log_file(database).stat().st_size > 8_000_000, "the commit has moved nothing"
    backlog.look()
    assert moves_at_commits(writer)
    assert log_file(database).stat().st_size == 0
    backlog.close()


def test_a_log_that_nobody_keeps_is_left_to_the_writer(
    database: Path, engines: tuple[Engine, Engine]
) -> None:
    reader, writer = engines
    backlog = Backlog(log_file(database), reader, writer, at_once, poll_s=3600)
    write(writer, 8_000_000)
    backlog.look()
    assert moves_at_commits(writer)
    assert move_log(reader) == 0
    backlog.close()


def test_it_looks_again_after_a_refusal(
    database: Path, engines: tuple[Engine, Engine], outside: sqlite3.Connection
) -> None:
    reader, writer = engines
    refusals: list[Callable[[], None]] = []

    def in_writer(work: Callable[[], None]) -> Future[None]:
        if len(refusals) == 3:
            return at_once(work)
        refusals.append(work)
        raise StoreBusyError("another process", retry_after_s=1)

    read(outside)
    write(writer, 8_000_000)
    backlog = Backlog(log_file(database), reader, writer, in_writer, poll_s=0.001)
    eventually(lambda: len(refusals) == 3 and not moves_at_commits(writer))
    backlog.close()
