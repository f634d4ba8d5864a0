"""What the log says while the database refuses writes: few lines, however many writes there are."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

from service.operations.metrics import Metrics

log = logging.getLogger("resight.store")

SAY_AGAIN_S = 60.0
"""Seconds until the same reason is told again: the log may be on the disk that is full."""


STORED_AGAIN_S = 5.0
"""Seconds without a refusal until a stored write is told: a full disk has room for some."""


class Refusals:
    """Tells the log and the metrics that writes are refused. Belongs to the writer's thread."""

    def __init__(self, metrics: Metrics, *, clock: Callable[[], float] = monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._told: dict[str, float] = {}
        self._writes = 0
        self._last = 0.0
        metrics.store_writable.set(1)

    def refused(self, reason: str, writes: int) -> None:
        """So many writes were refused."""
        self._metrics.store_writable.set(0)
        self._writes += writes
        self._last = now = self._clock()
        self._told = {known: at for known, at in self._told.items() if now - at < SAY_AGAIN_S}
        if reason not in self._told:
            self._told[reason] = now
            log.warning("writes refused (%d): %s", self._writes, reason)

    def stored(self) -> None:
        """A write was stored."""
        if not self._writes:
            return
        self._metrics.store_writable.set(1)
        if self._clock() - self._last >= STORED_AGAIN_S:
            log.info("writes are stored again; %d were refused", self._writes)
            self._writes = 0
            self._told.clear()
