"""When refused calls may come back: spread over the time that the model needs for them.

If all came back at once, nearly all would be refused again, and to refuse a call of many images
costs more than to embed one of them. So the calls of a client get times one after the other, by its
share of the model. A client that comes back earlier pushes away its own calls only.
"""

from __future__ import annotations

MIN_RETRY_S = 0.05
MAX_RETRY_S = 10.0

_TRIES = 2
"""Calls that come back in the time that the model needs for one: some of them never do."""

_GONE = 1 / 4
"""Of what waits: once it is embedded the first may come back. Later, the queue might be empty."""


class ReturnTimes:
    """The times, by client, on one clock."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def wait(self, client: str, seconds: float, *, now: float, full_s: float) -> float:
        """Seconds until the next refused call of a client may come back.

        seconds: that the model needs for the call. full_s: seconds until the queue is empty.
        """
        self._last = {other: at for other, at in self._last.items() if at > now}
        earliest = now + max(full_s * _GONE, MIN_RETRY_S)
        clients = len(self._last.keys() | {client})
        at = max(self._last.get(client, 0.0), earliest) + seconds * clients / _TRIES
        self._last[client] = min(at, now + MAX_RETRY_S)
        return self._last[client] - now
