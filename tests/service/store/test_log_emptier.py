from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

import service.store.log_emptier
from service.errors import StoreBusyError
from service.store.log_emptier import LogEmptier
from service.store.sqlite import empty_log, open_sqlite
from tests.support.fake_clock import FakeClock
from tests.support.waiting import eventually


@pytest.fixture
def engine(database: Path) -> Iterator[Engine]:
    reader, writer = open_sqlite(database)
    with writer.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x)")
    yield writer
    reader.dispose()
    writer.dispose()


class Obstacle:
    """A log that can be emptied once the obstacle has gone; `tries` counts the attempts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        self.text = text
        self.tries = 0
        self.pauses: list[float] = []
        monkeypatch.setattr(service.store.log_emptier, "empty_log", self._attempt)
        monkeypatch.setattr(service.store.log_emptier, "FIRST_PAUSE_S", 0.001)
        monkeypatch.setattr(service.store.log_emptier, "LONGEST_PAUSE_S", 0.004)

    def _attempt(self, _: object) -> str:
        self.tries += 1
        return self.text


def at_once(work: Callable[[], None]) -> Future[None]:
    done: Future[None] = Future()
    work()
    done.set_result(None)
    return done


def test_an_outside_reader_is_an_obstacle_until_it_ends(engine: Engine, database: Path) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM t").fetchall()
        with engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO t VALUES (1)")
        assert empty_log(engine) == "another connection reads or writes"
        reader.execute("COMMIT")
    assert empty_log(engine) == ""
    assert database.with_name(f"{database.name}-wal").stat().st_size == 0


def test_the_writer_is_as_patient_with_locks_as_before(engine: Engine) -> None:
    def patience() -> Any:
        with closing(engine.raw_connection()) as connection:
            return connection.cursor().execute("PRAGMA busy_timeout").fetchone()

    before = patience()
    empty_log(engine)
    assert patience() == before


def test_it_is_tried_until_it_is_done_and_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    obstacle = Obstacle(monkeypatch, "a reader")
    emptier = LogEmptier(None, at_once)  # type: ignore[arg-type] # the obstacle needs no engine
    emptier.after_deletion()
    eventually(lambda: obstacle.tries >= 5)
    obstacle.text = "a full disk"
    seen = obstacle.tries
    eventually(lambda: obstacle.tries >= seen + 5)
    obstacle.text = ""
    eventually(lambda: emptier.pending_s == 0)
    tries = obstacle.tries
    emptier.close()
    assert obstacle.tries == tries
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert ["a reader" in warned[0], "a full disk" in warned[1], len(warned)] == [True, True, 2]


def test_an_obstacle_met_again_is_told_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    obstacle = Obstacle(monkeypatch, "a reader")
    emptier = LogEmptier(None, at_once)  # type: ignore[arg-type] # the obstacle needs no engine
    for number in (1, 2):
        obstacle.text = "a reader"
        emptier.after_deletion()
        eventually(lambda: obstacle.tries > 1)
        obstacle.text = ""
        eventually(lambda: emptier.pending_s == 0)
        obstacle.tries = 0
        warned = [record for record in caplog.records if record.levelname == "WARNING"]
        assert len(warned) == number
    emptier.close()


def test_further_deletions_do_not_try_while_something_is_in_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    obstacle = Obstacle(monkeypatch, "a reader")
    monkeypatch.setattr(service.store.log_emptier, "FIRST_PAUSE_S", 3600.0)
    clock = FakeClock()
    start = clock()
    emptier = LogEmptier(
        None,  # type: ignore[arg-type] # the obstacle needs no engine
        at_once,
        clock=lambda: (clock() - start).total_seconds(),
    )
    assert emptier.pending_s == 0
    emptier.after_deletion()
    clock.forward(seconds=5)
    emptier.after_deletion()
    assert (obstacle.tries, emptier.pending_s) == (1, 5)
    emptier.close()  # in the middle of the long pause


def test_a_refused_attempt_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    obstacle = Obstacle(monkeypatch, "a reader")
    refused = threading.Event()

    def in_writer(work: Callable[[], None]) -> Future[None]:
        if refused.is_set():
            return at_once(work)
        refused.set()
        obstacle.text = ""
        failed: Future[None] = Future()
        failed.set_exception(StoreBusyError("another process", retry_after_s=1))
        return failed

    emptier = LogEmptier(None, in_writer)  # type: ignore[arg-type] # needs no engine
    emptier.after_deletion()
    eventually(lambda: emptier.pending_s == 0)
    assert refused.is_set()
    emptier.close()


def test_a_short_read_is_not_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "resight.store")
    Obstacle(monkeypatch, "")  # for its short pauses
    outcomes = iter(["a reader", ""])
    monkeypatch.setattr(service.store.log_emptier, "empty_log", lambda _: next(outcomes))
    emptier = LogEmptier(None, at_once)  # type: ignore[arg-type] # the obstacle needs no engine
    emptier.after_deletion()
    eventually(lambda: emptier.pending_s == 0)
    emptier.close()
    assert caplog.messages == []
