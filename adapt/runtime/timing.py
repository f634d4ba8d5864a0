"""Seconds spent in each stage of a job."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger("resight")


class Stages:
    """Adds up wall-clock seconds by stage; a stage within another counts for itself alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: gives seconds."""
        self._clock = clock
        self.seconds: dict[str, float] = {}
        self._within = 0.0

    @contextmanager
    def __call__(self, name: str, announcement: str = "") -> Iterator[None]:
        """Measure a block; with an announcement, log it first."""
        if announcement:
            log.info("== %s: %s", name, announcement)
        around, self._within = self._within, 0.0
        start = self._clock()
        try:
            yield
        finally:
            seconds = self._clock() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds - self._within
            self._within = around + seconds
