"""Memory of calls that are over goes back to the system; the C library would keep most of it."""

from __future__ import annotations

import asyncio

from service.embedding.memory import return_freed_memory

ENOUGH_BYTES = 8 * 1024 * 1024
"""Bytes of requests and answers after which it is worth the work."""

PAUSE_S = 5.0
"""Least seconds between two times."""


class FreedMemory:
    """Gives it back some seconds after calls held much of it. Belongs to one event loop."""

    def __init__(self) -> None:
        self._bytes = 0
        self._due: asyncio.TimerHandle | None = None

    def add(self, freed: int) -> None:
        """A call is over that held so many bytes."""
        self._bytes += freed
        if self._bytes >= ENOUGH_BYTES and self._due is None:
            self._due = asyncio.get_running_loop().call_later(PAUSE_S, self._give_back)

    def _give_back(self) -> None:
        self._bytes, self._due = 0, None
        asyncio.get_running_loop().run_in_executor(None, return_freed_memory)
