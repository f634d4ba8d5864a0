"""Faults of the server in its log: where many calls meet the same one, few tracebacks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

log = logging.getLogger("resight.rpc")

SAY_AGAIN_S = 60.0
"""Seconds until the same fault is told again."""

_MAX_PLACES = 1000


class Faults:
    """Tells the log of faults. Belongs to one event loop. clock: seconds, monotonic."""

    def __init__(self, *, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._told: dict[tuple[str, type[Exception], int], tuple[float, int]] = {}

    def tell(self, method: str, error: Exception) -> None:
        """A call failed; the same fault of its method has one traceback a minute."""
        now = self._clock()
        last, untold = self._told.get(place := _place(method, error), (now - SAY_AGAIN_S, 0))
        if now - last < SAY_AGAIN_S:
            self._told[place] = (last, untold + 1)
            return
        if len(self._told) >= _MAX_PLACES:
            self._told.clear()
        self._told[place] = (now, 0)
        since = f" ({untold} more since the last time)" if untold else ""
        log.error("%s failed%s", method, since, exc_info=error)


def _place(method: str, error: Exception) -> tuple[str, type[Exception], int]:
    """Equal for errors that one line of the code raised."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return method, type(error), 0 if last is None else hash((last.tb_frame.f_code, last.tb_lineno))
