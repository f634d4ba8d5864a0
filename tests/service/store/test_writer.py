from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DatabaseError

from service.errors import (
    ShuttingDownError,
    SiteNotFoundError,
    StoreBusyError,
    StoreError,
    StoreFullError,
)
from service.operations.metrics import Metrics
from service.store.sqlite import open_sqlite
from service.store.writer import Writer
from tests.support.waiting import eventually


@pytest.fixture
def engines(database: Path) -> Iterator[tuple[Engine, Engine]]:
    reader, writer = open_sqlite(database)
    with writer.begin() as connection:
        connection.execute(text("CREATE TABLE t (n INTEGER PRIMARY KEY, data BLOB)"))
    yield reader, writer
    reader.dispose()
    writer.dispose()


@pytest.fixture
def writer(engines: tuple[Engine, Engine], metrics: Metrics) -> Iterator[Writer]:
    writer = Writer(engines[1], metrics)
    yield writer
    writer.close()


def put(number: int, size: int = 0) -> Any:
    def apply(connection: Connection) -> int:
        connection.execute(
            text("INSERT INTO t VALUES (:n, :data)"), {"n": number, "data": bytes(size)}
        )
        return number

    return apply


def stored(engines: tuple[Engine, Engine]) -> list[int]:
    with engines[0].begin() as connection:
        return list(connection.execute(text("SELECT n FROM t ORDER BY n")).scalars())


class Blocked:
    """Holds the writer inside a transaction, so that what is submitted meanwhile is one group."""

    def __init__(self, writer: Writer) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()

        def apply(_: Connection) -> None:
            self.entered.set()
            assert self.go_on.wait(10)

        self.future = writer.submit(apply)
        assert self.entered.wait(10)


def test_a_done_write_is_committed(writer: Writer, engines: tuple[Engine, Engine]) -> None:
    assert writer.submit(put(1)).result(10) == 1
    assert stored(engines) == [1]


@pytest.mark.parametrize(("pragma", "value"), [("synchronous", 2), ("journal_mode", "wal")])
def test_a_commit_survives_a_loss_of_power(writer: Writer, pragma: str, value: object) -> None:
    def ask(connection: Connection) -> object:
        return connection.exec_driver_sql(f"PRAGMA {pragma}").scalar()

    assert writer.submit(ask).result(10) == value


def test_waiting_writes_share_a_commit(
    writer: Writer, engines: tuple[Engine, Engine], metrics: Metrics
) -> None:
    blocked = Blocked(writer)
    futures = [writer.submit(put(number)) for number in range(10)]
    assert stored(engines) == []
    blocked.go_on.set()
    assert [future.result(10) for future in futures] == list(range(10))
    value = metrics.registry.get_sample_value
    assert value("resight_commit_size_count") == 2
    assert value("resight_commit_size_sum") == 11


def test_an_error_of_ours_undoes_its_own_writes_only(
    writer: Writer, engines: tuple[Engine, Engine]
) -> None:
    def half(connection: Connection) -> None:
        put(5)(connection)
        raise SiteNotFoundError("no")

    blocked = Blocked(writer)
    futures = [writer.submit(put(1)), writer.submit(half), writer.submit(put(2))]
    blocked.go_on.set()
    assert futures[0].result(10) == 1
    with pytest.raises(SiteNotFoundError):
        futures[1].result(10)
    assert futures[2].result(10) == 2
    assert stored(engines) == [1, 2]


def test_a_refusal_by_the_database_hits_its_own_write_only(
    writer: Writer, engines: tuple[Engine, Engine]
) -> None:
    writer.submit(put(7)).result(10)
    blocked = Blocked(writer)
    futures = [writer.submit(put(1)), writer.submit(put(7)), writer.submit(put(2))]
    blocked.go_on.set()
    assert futures[0].result(10) == 1
    with pytest.raises(StoreError, match="UNIQUE"):
        futures[1].result(10)
    assert futures[2].result(10) == 2
    assert stored(engines) == [1, 2, 7]


def test_after_commit_runs_after_the_commit_in_its_order(
    writer: Writer, engines: tuple[Engine, Engine]
) -> None:
    seen: list[tuple[int, list[int]]] = []
    blocked = Blocked(writer)
    futures = [
        writer.submit(put(number), lambda number: seen.append((number, stored(engines))))
        for number in (3, 1, 2)
    ]
    blocked.go_on.set()
    for future in futures:
        future.result(10)
    assert [number for number, _ in seen] == [3, 1, 2]
    assert all(at_that_time == [1, 2, 3] for _, at_that_time in seen)


def test_a_full_disk_is_reported_and_the_writer_continues(
    writer: Writer, engines: tuple[Engine, Engine], caplog: pytest.LogCaptureFixture
) -> None:
    def pages(limit: int) -> None:
        raw = engines[1].raw_connection()
        raw.cursor().execute(f"PRAGMA max_page_count={limit}")
        raw.close()

    pages(10)
    with pytest.raises(StoreFullError, match="free space"):
        writer.submit(put(1, size=1_000_000)).result(10)
    assert stored(engines) == []
    assert r"\x00\x00" not in caplog.text, "crops do not belong in the log"
    pages(100_000)
    assert writer.submit(put(1, size=1_000_000)).result(10) == 1


def test_writes_that_wait_for_another_process_are_refused_together(
    database: Path,
    engines: tuple[Engine, Engine],
    metrics: Metrics,
    caplog: pytest.LogCaptureFixture,
) -> None:
    reader, engine = open_sqlite(database, busy_s=0.05)
    writer = Writer(engine, metrics)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        done, go_on = threading.Event(), threading.Event()

        def committed(_: int) -> None:
            done.set()
            assert go_on.wait(10)

        first = writer.submit(put(1), committed)
        assert done.wait(10)
        other.execute("BEGIN IMMEDIATE")
        futures = [writer.submit(put(number)) for number in (2, 3, 4)]
        go_on.set()
        assert first.result(10) == 1
        for future in futures:
            with pytest.raises(StoreBusyError) as refused:
                future.result(10)
            assert refused.value.retry_after_s
        (warned,) = caplog.records
        assert "writes refused (3)" in warned.getMessage(), "not one after the other"
        other.execute("ROLLBACK")
        assert stored(engines) == [1]
        assert [writer.submit(put(number)).result(10) for number in (2, 3, 4)] == [2, 3, 4]
    writer.close()
    reader.dispose()
    engine.dispose()


def test_a_caller_that_has_gone_writes_nothing(
    writer: Writer, engines: tuple[Engine, Engine]
) -> None:
    blocked = Blocked(writer)
    gone, stays = writer.submit(put(1)), writer.submit(put(2))
    assert gone.cancel()
    blocked.go_on.set()
    assert stays.result(10) == 2
    with pytest.raises(CancelledError):
        gone.result(0)
    assert stored(engines) == [2]


def test_close_finishes_what_is_queued_and_refuses_more(
    engines: tuple[Engine, Engine], metrics: Metrics
) -> None:
    writer = Writer(engines[1], metrics)
    blocked = Blocked(writer)
    futures = [writer.submit(put(number)) for number in range(200)]
    closing = threading.Thread(target=writer.close)
    closing.start()
    blocked.go_on.set()
    closing.join(10)
    assert [future.result(0) for future in futures] == list(range(200))
    with pytest.raises(ShuttingDownError):
        writer.submit(put(1))


def test_a_fault_in_after_commit_is_an_error_and_does_not_stop_the_writer(
    writer: Writer, engines: tuple[Engine, Engine]
) -> None:
    def after(_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(StoreError):
        writer.submit(put(1), after).result(10)
    assert writer.submit(put(2)).result(10) == 2
    assert stored(engines) == [1, 2]


def test_what_a_deleted_database_would_lose_is_refused(
    writer: Writer, engines: tuple[Engine, Engine], database: Path, metrics: Metrics
) -> None:
    assert writer.submit(put(1)).result(10) == 1
    database.rename(database.with_suffix(".away"))
    with pytest.raises(StoreError, match="was removed, moved or replaced"):
        writer.submit(put(2)).result(10)
    assert metrics.registry.get_sample_value("resight_store_writable") == 0
    database.with_suffix(".away").rename(database)
    assert writer.submit(put(3)).result(10) == 3
    eventually(lambda: metrics.registry.get_sample_value("resight_store_writable") == 1)
    assert stored(engines) == [1, 3]


def test_many_refused_writes_are_few_lines_of_the_log(
    writer: Writer, engines: tuple[Engine, Engine], caplog: pytest.LogCaptureFixture
) -> None:
    raw = engines[1].raw_connection()
    raw.cursor().execute("PRAGMA max_page_count=10")
    raw.close()
    for number in range(20):
        with pytest.raises(StoreFullError):
            writer.submit(put(number, size=1_000_000)).result(10)
    (warned,) = caplog.records
    assert warned.getMessage().startswith("writes refused (1): the server's disk is full")
    assert warned.exc_info is None


def test_short_memory_fails_one_write_and_ends_no_thread(
    writer: Writer,
    metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def no_memory(_: object) -> None:
        raise MemoryError

    with pytest.raises(StoreError, match="too little memory"):
        writer.submit(no_memory).result(10)
    with monkeypatch.context() as patched:  # outside of any write
        patched.setattr(metrics.commit_size, "observe", no_memory)
        assert writer.submit(put(1)).result(10) == 1
        eventually(lambda: "a group of writes failed" in caplog.text)
    assert writer.submit(put(2)).result(10) == 2


def test_a_disk_that_cannot_be_read_is_few_lines_of_the_log(
    writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    def unreadable(_: Connection) -> None:
        raise DatabaseError("BEGIN", None, sqlite3.DatabaseError("disk image is malformed"))

    for _ in range(20):
        with pytest.raises(StoreError, match="malformed"):
            writer.submit(unreadable).result(10)
    (warned,) = caplog.records
    assert warned.exc_info is None
