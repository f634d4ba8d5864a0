"""What follows from a write happens although the caller has left meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def completed(work: Awaitable[T]) -> T:
    """The result of work, which is done to its end although the caller is cancelled.

    A write may be stored although its caller has left: what others have to be told of it is part
    of the work. A cancelled caller waits for the end, too: until then it is open what was stored.

    Raises:
        asyncio.CancelledError: the caller was cancelled, and the work is done.
        Exception: the work failed, whether or not the caller was cancelled.
    """
    over = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not over.done():
        try:
            await asyncio.wait({over})
        except asyncio.CancelledError as error:
            cancelled = error
    try:
        result = over.result()
        if cancelled is not None:
            raise cancelled
    finally:
        cancelled = None  # its frames, and with them this one, would keep each other alive
    return result
