"""Group commit: the writes of several callers share one transaction and one fsync."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError

from service.errors import (
    CallError,
    ShuttingDownError,
    StoreBusyError,
    StoreError,
    StoreFullError,
)
from service.operations.metrics import Metrics
from service.store.place import Place
from service.store.refusals import Refusals

T = TypeVar("T")

log = logging.getLogger("resight.store")

_MAX_GROUP = 64
"""Most writes of one transaction, which limits how long the first one waits."""

_BUSY_RETRY_S = 1.0
"""Seconds until a caller should try again while another process holds the database."""


_OF_THE_SYSTEM = (OperationalError, DatabaseError, MemoryError)
"""Types of errors that say nothing of the write: a full disk, one that cannot be read, ...; their
subtypes do, as a row that violates a constraint."""


class _Write:
    """One caller's write. `apply` runs inside the transaction, and again after a failed group;
    `after_commit` runs once, in the order of the commits."""

    def __init__(
        self, apply: Callable[[Connection], Any], after_commit: Callable[[Any], None] | None
    ) -> None:
        self.apply = apply
        self.after_commit = after_commit
        self.future: Future[Any] = Future()


class Writer:
    """The only thread that writes to the database."""

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self._refusals = Refusals(metrics)
        self._place = Place(Path(str(engine.url.database)))
        self._queue: queue.Queue[_Write | None] = queue.Queue()
        self._closing = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="resight-writer", daemon=True)
        self._thread.start()

    def submit(
        self,
        apply: Callable[[Connection], T],
        after_commit: Callable[[T], None] | None = None,
    ) -> Future[T]:
        """Run `apply` in a transaction; the future is done after its commit.

        apply: must only read and write the connection, because it may run twice. If it raises a
            `CallError`, only its own writes are undone, and the future gets the error.
        after_commit: told the result, in the order of commits, before the future is done.
        """
        write = _Write(apply, after_commit)
        with self._lock:
            if self._closing:
                raise ShuttingDownError("the server is stopping; send the call again later")
            self._queue.put(write)
        return write.future

    def is_current_thread(self) -> bool:
        """Whether the caller runs in the writer's thread, as what is called after a commit does."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """Finish what is queued, then stop."""
        with self._lock:
            self._closing = True
            self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        over = False
        while not over:
            group: list[_Write] = []
            try:
                over = not self._fill(group)
                # A write that was cancelled before its turn is skipped.
                ready = [write for write in group if write.future.set_running_or_notify_cancel()]
                if ready:
                    self._commit(ready)
            except Exception as error:  # else all writes of all callers would wait for ever
                log.exception("a group of writes failed")
                for write in group:
                    if not write.future.done():
                        write.future.set_exception(_as_call_error(error))

    def _fill(self, group: list[_Write]) -> bool:
        """Add the next writes to a group, waiting for the first; False: there come no others."""
        while len(group) < _MAX_GROUP:
            try:
                write = self._queue.get(block=not group)
            except queue.Empty:
                break
            if write is None:
                return False
            group.append(write)
        return True

    def _commit(self, group: list[_Write]) -> None:
        outcomes: list[Any] = []
        try:
            self._place.check()
            with self._metrics.stage("commit"), self._engine.begin() as connection:
                outcomes = [_apply(write, connection) for write in group]
        except Exception as error:
            refusal = _as_call_error(error)
            # Of no write in particular. One after the other, each would wait as long for a lock.
            of_all = isinstance(error, CallError) or isinstance(refusal, StoreBusyError)
            if len(group) > 1 and not of_all:  # one of them failed it: each gets its own
                for write in group:
                    self._commit([write])
                return
            if of_all or type(error) in _OF_THE_SYSTEM:
                self._refusals.refused(str(refusal), len(group))
            else:
                log.exception("a write failed")
            for write in group:
                write.future.set_exception(_as_call_error(error))
            return
        for write, outcome in zip(group, outcomes, strict=True):
            _finish(write, outcome)
        self._refusals.stored()
        self._metrics.commit_size.observe(len(group))


def _apply(write: _Write, connection: Connection) -> Any:
    # Any error but `CallError` ends the whole transaction. On a full disk the database has ended it
    # already, and the savepoint is gone.
    savepoint = connection.begin_nested()
    try:
        result = write.apply(connection)
    except CallError as error:
        savepoint.rollback()
        return error
    savepoint.commit()
    return result


def _finish(write: _Write, outcome: Any) -> None:
    if isinstance(outcome, CallError):
        write.future.set_exception(outcome)
        return
    try:
        if write.after_commit is not None:
            write.after_commit(outcome)
    except Exception as error:
        if not isinstance(error, CallError):
            log.exception("a write is stored, but not what follows from it; restart the server")
        write.future.set_exception(_as_call_error(error))
    else:
        write.future.set_result(outcome)


def _as_call_error(error: Exception) -> CallError:
    if isinstance(error, CallError):
        return error
    if isinstance(error, DBAPIError):
        return store_error(error)
    if isinstance(error, MemoryError):
        return StoreError("the server has too little memory; give it more, or lower its limits")
    return StoreError("the write failed with an internal error; see the server's log")


def store_error(error: DBAPIError) -> CallError:
    """The error for the caller where the database refuses."""
    text = str(error.orig)
    name = getattr(error.orig, "sqlite_errorname", "")
    if name.startswith("SQLITE_BUSY"):
        return StoreBusyError(
            f"another process holds the server's database ({text}); nothing was stored, try again "
            f"in {_BUSY_RETRY_S:g} s",
            retry_after_s=_BUSY_RETRY_S,
        )
    if "disk is full" in text or "No space left" in text:
        return StoreFullError(
            "the server's disk is full; free space outside the database: deleting sightings needs "
            "space, too"
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return StoreError(
            f"the database cannot be read ({text}); check the server's disk, start the server "
            "again, and only if this stays restore the database from a backup"
        )
    return StoreError(f"the database refused ({text}); see the server's log")
