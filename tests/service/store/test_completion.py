from __future__ import annotations

import asyncio

import pytest

from service.errors import StoreFullError
from service.store.completion import completed


async def settle() -> None:
    """Let all tasks do what they can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_result_of_a_future_and_of_a_coroutine() -> None:
    future = asyncio.get_running_loop().create_future()
    future.set_result(1)
    assert await completed(future) == 1
    assert await completed(asyncio.sleep(0, "two")) == "two"


@pytest.mark.parametrize("begun", [True, False])
async def test_the_work_is_done_although_the_caller_is_cancelled(begun: bool) -> None:
    go = asyncio.Event()
    steps: list[str] = []

    async def work() -> None:
        await go.wait()
        steps.append("stored")
        await asyncio.sleep(0)
        steps.append("told")

    async def call() -> None:
        if not begun:  # takes effect where it waits for the first time
            calling.cancel()
        await completed(work())

    calling = asyncio.create_task(call())
    for _ in range(2):
        await settle()
        calling.cancel()
    await settle()
    assert not calling.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert steps == ["stored", "told"]


@pytest.mark.parametrize("cancel", [True, False])
async def test_the_error_of_the_work_comes_first(cancel: bool) -> None:
    write: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    calling = asyncio.ensure_future(completed(write))
    await settle()
    if cancel:
        calling.cancel()
        await settle()
    write.set_exception(StoreFullError("full"))
    with pytest.raises(StoreFullError, match="full"):
        await calling
