"""Deleted data leaves the write-ahead log: at once, or as soon as nobody is in the way."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic

from sqlalchemy import Engine

from service.errors import CallError, ShuttingDownError
from service.store.sqlite import empty_log

log = logging.getLogger("resight.store")

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 30.0


class LogEmptier:
    """Empties the log after deletions, and tries again with growing pauses until it is done.

    All attempts are made by the writer's thread, where none can meet a write of this process. They
    wait some milliseconds at most: a reader from outside, e.g. a backup, delays no write.

    in_writer: runs a function in the writer's thread, after a commit.
    """

    def __init__(
        self,
        engine: Engine,
        in_writer: Callable[[Callable[[], None]], Future[None]],
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._engine = engine
        self._in_writer = in_writer
        self._clock = clock
        self._since: float | None = None
        self._obstacle = ""
        self._told = ""
        self._blocked = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resight-log", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> bool:
        """Whether the log may hold something that was deleted."""
        return self._since is not None

    @property
    def pending_s(self) -> float:
        """Seconds since the oldest deletion that may still be in the log; 0: there is none."""
        since = self._since
        return 0.0 if since is None else self._clock() - since

    def after_deletion(self) -> None:
        """Empty the log, which holds deleted data; called by the writer's thread."""
        if self._since is None:
            self._since = self._clock()
            self._attempt()

    def close(self) -> None:
        """Stop trying; the next start tries again."""
        self._stopping.set()
        self._blocked.set()
        self._thread.join()

    def _attempt(self) -> None:
        """The deletions are committed, even if this fails."""
        obstacle = empty_log(self._engine)
        # The first attempt often meets a short read of this process.
        if obstacle and self._obstacle and obstacle != self._told:
            self._told = obstacle
            log.warning(
                "the write-ahead log could not be emptied and may contain deleted data (%s); it is "
                "tried again until it is done",
                obstacle,
            )
        elif self._told and not obstacle:
            self._told = ""
            log.info("the write-ahead log is emptied")
        self._obstacle = obstacle
        if obstacle:
            self._blocked.set()
        else:
            self._since = None

    def _run(self) -> None:
        while True:
            self._blocked.wait()
            self._blocked.clear()
            pause = FIRST_PAUSE_S
            while self._obstacle and not self._stopping.wait(pause):
                self._try_again()
                pause = min(2 * pause, LONGEST_PAUSE_S)
            if self._stopping.is_set():
                return

    def _try_again(self) -> None:
        try:
            self._in_writer(self._attempt).result()
        except ShuttingDownError:
            return
        except CallError as error:
            log.debug("no attempt to empty the write-ahead log: %s", error)
