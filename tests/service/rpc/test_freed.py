from __future__ import annotations

import asyncio

import pytest

from service.rpc import freed
from service.rpc.budget import ByteBudget


async def test_memory_of_large_calls_is_given_back_once_in_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given_back = asyncio.Queue[None]()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(
        freed, "return_freed_memory", lambda: loop.call_soon_threadsafe(given_back.put_nowait, None)
    )
    monkeypatch.setattr(freed, "PAUSE_S", 0.05)
    budget = ByteBudget(8 * freed.ENOUGH_BYTES, freed.FreedMemory().add)
    for sizes in ((freed.ENOUGH_BYTES - 1, 1), (freed.ENOUGH_BYTES, freed.ENOUGH_BYTES)):
        for size in sizes:
            assert given_back.empty()
            reservation = await budget.reserve(2 * freed.ENOUGH_BYTES, "a", at_most_s=1)
            reservation.shrink(size)
            reservation.release()
            reservation.release()
        async with asyncio.timeout(10):
            await given_back.get()
    await asyncio.sleep(0.1)
    assert given_back.empty()
