"""Deletes in the background, in chunks between the writes of others."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic
from typing import TypeAlias

from sqlalchemy import Connection

from service.errors import CallError, ShuttingDownError
from service.store.wiping import Pass, Wiped, wipe_chunk

log = logging.getLogger("resight.store")

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 30.0


_Submit: TypeAlias = Callable[
    [Callable[[Connection], Wiped], Callable[[Wiped], None]], Future[Wiped]
]
"""As `Store.submit`."""


class Wiper:
    """Wipes what is gone for callers. What is left at the end is wiped after the next start.

    Each chunk is a transaction of its own, and queues for the writer as the writes of callers do.
    Where the database refuses, e.g. on a full disk, it is tried again with growing pauses.

    wiped: called by the writer's thread at the end, when the log may hold what was deleted.
    """

    def __init__(
        self,
        submit: _Submit,
        wiped: Callable[[], None],
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._submit = submit
        self._wiped = wiped
        self._clock = clock
        self._since: float | None = None
        self._log_holds_deleted = False
        self._work = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resight-wiper", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> bool:
        """Whether something is left to wipe."""
        return self._since is not None

    @property
    def pending_s(self) -> float:
        """Seconds since the oldest deletion of which something is left; 0: nothing is left."""
        since = self._since
        return 0.0 if since is None else self._clock() - since

    def notify(self) -> None:
        """There is something to wipe; called by the writer's thread, after the commit."""
        if self._since is None:
            self._since = self._clock()
        self._work.set()

    def close(self) -> None:
        """Stop after the chunk that is being wiped."""
        self._stopping.set()
        self._work.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._work.wait()
            self._work.clear()
            if self._stopping.is_set():
                return
            self._wipe_all()

    def _wipe_all(self) -> None:
        pause, told, going = FIRST_PAUSE_S, "", None
        while not self._stopping.is_set():
            try:
                done = self._chunk(going).result()
            except ShuttingDownError:
                return
            except CallError as error:
                if str(error) != told:
                    told = str(error)
                    log.warning(
                        "deleted data is still in the database (%s); it is tried again", error
                    )
                self._stopping.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                continue
            if done.over:
                return
            pause, going = FIRST_PAUSE_S, done.next

    def _chunk(self, going: Pass | None) -> Future[Wiped]:
        return self._submit(lambda connection: wipe_chunk(connection, going), self._committed)

    def _committed(self, done: Wiped) -> None:
        if not done.over:
            self._log_holds_deleted = True
            return
        if self._log_holds_deleted:
            self._log_holds_deleted = False
            self._wiped()
        self._since = None
