"""A long read from outside lets the log grow: it is moved into the database beside the writer."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from service.errors import CallError
from service.store.sqlite import empty_log, move_log, move_log_at_commits

log = logging.getLogger("resight.store")

LARGE_BYTES = 64_000_000
"""Smaller logs are left to the writer, who moves them within some of its commits."""

MAX_PAGES = 4000
"""Pages of the log that the writer may move in one commit."""

_POLL_S = 1.0


class Backlog:
    """Looks at the log from time to time, in a thread of its own.

    A read that lasts keeps the log from being moved. At its end the next commit would move all of
    it, for seconds. So while much is left, commits move nothing, and this thread does.

    in_writer: runs a function in the writer's thread, after a commit.
    """

    def __init__(
        self,
        log_file: Path,
        reader: Engine,
        writer: Engine,
        in_writer: Callable[[Callable[[], None]], Future[None]],
        *,
        poll_s: float = _POLL_S,
    ) -> None:
        self._file = log_file
        self._reader = reader
        self._writer = writer
        self._in_writer = in_writer
        self._poll_s = poll_s
        self._beside = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resight-backlog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._stopping.set()
        self._thread.join()

    def look(self) -> None:
        """Move what is left of a large log."""
        if not self._beside and not self._is_large():
            return
        left = move_log(self._reader)
        if left is None:
            return
        if left > MAX_PAGES and not self._beside:
            log.info("a long read keeps the write-ahead log large: it is moved beside the writer")
            self._in_writer(lambda: move_log_at_commits(self._writer, False)).result()
            self._beside = True
        elif left <= MAX_PAGES and self._beside:
            self._in_writer(self._as_usual).result()
            self._beside = False

    def _as_usual(self) -> None:
        move_log_at_commits(self._writer, True)
        empty_log(self._writer)  # its room on the disk is free again, unless somebody reads

    def _is_large(self) -> bool:
        return self._file.exists() and self._file.stat().st_size > LARGE_BYTES

    def _run(self) -> None:
        while not self._stopping.wait(self._poll_s):
            try:
                self.look()
            # E.g. a full disk, or one that is gone; the thread stays.
            except (CallError, SQLAlchemyError, sqlite3.Error, OSError, MemoryError) as error:
                log.debug("the write-ahead log was not moved: %s", error)
