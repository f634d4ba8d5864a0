from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from service.rpc import freed
from service.rpc.budget import ByteBudget
from service.rpc.freed import ENOUGH_BYTES, PAUSE_S, FreedMemory


async def test_memory_of_large_calls_is_given_back_once_in_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given_back = asyncio.Queue[None]()
    loop = asyncio.get_running_loop()
    due: list[Callable[[], None]] = []

    def call_later(delay: float, work: Callable[[], None]) -> object:
        assert delay == PAUSE_S
        due.append(work)
        return object()

    monkeypatch.setattr(
        freed, "return_freed_memory", lambda: loop.call_soon_threadsafe(given_back.put_nowait, None)
    )
    monkeypatch.setattr(loop, "call_later", call_later)
    budget = ByteBudget(8 * ENOUGH_BYTES, FreedMemory().add)
    for calls in (((ENOUGH_BYTES - 1, 0), (1, 1)), ((ENOUGH_BYTES, 1), (ENOUGH_BYTES, 1))):
        for size, waiting in calls:
            reservation = await budget.reserve(2 * ENOUGH_BYTES, "a", at_most_s=1)
            reservation.shrink(size)
            reservation.release()
            reservation.release()
            assert len(due) == waiting
        assert given_back.empty()
        due.pop()()
        await given_back.get()
    assert not due
    assert given_back.empty()
