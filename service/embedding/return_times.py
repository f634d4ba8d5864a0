"""When refused calls may come back: spread over the time that the model needs for them.

If all came back at once, nearly all would be refused again, and to refuse a call of many images
costs more than to embed one of them. So the calls of a client get times one after the other, by its
share of the model. A client that comes back earlier pushes away its own calls only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MIN_RETRY_S = 0.05
MAX_RETRY_S = 10.0

_TRIES = 2
"""Calls that come back in the time that the model needs for one: some of them never do."""

_GONE = 1 / 4
"""Of what waits: once it is embedded the first may come back. Later, the queue might be empty."""


@dataclass(slots=True)
class _Client:
    """first, last: of its times that are not past. came_back: at one of them."""

    first: float
    last: float
    came_back: bool = False


class ReturnTimes:
    """The times, by client, on one clock.

    Clients that were refused once and never came back take no share: for them the model would rest.
    """

    def __init__(self) -> None:
        self._clients: dict[str, _Client] = {}

    def wait(self, client: str, seconds: float, *, now: float, full_s: float) -> float:
        """Seconds until the next refused call of a client may come back.

        seconds: that the model needs for the call. full_s: seconds until the queue is empty.
        """
        self._clients = {
            name: known for name, known in self._clients.items() if known.last > now - MAX_RETRY_S
        }
        earliest = now + max(full_s * _GONE, MIN_RETRY_S)
        mine = self._clients.setdefault(client, _Client(math.inf, earliest))
        mine.came_back = mine.came_back or now >= mine.first
        shares = sum(known.came_back and known.last > now for known in self._clients.values())
        at = max(mine.last, earliest) + seconds * max(shares, 1) / _TRIES
        mine.last = min(at, now + MAX_RETRY_S)
        mine.first = min(mine.first, mine.last)
        return mine.last - now
