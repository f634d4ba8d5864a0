"""The context of a call, as far as the service looks at it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Call:
    """A call of one client, until `end`."""

    def __init__(self, client: str) -> None:
        self._client = client
        self._callbacks: list[Callable[[Any], None]] = []

    def peer(self) -> str:
        return self._client

    def add_done_callback(self, work: Callable[[Any], None]) -> None:
        self._callbacks.append(work)

    def end(self) -> None:
        for work in self._callbacks:
            work(self)
