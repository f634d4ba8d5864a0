"""What the servicers share. A servicer reads a request, calls a package, and writes the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import grpc.aio

from service.errors import TooManyItemsError

TURN_S = 2.0
"""How long a call waits until there is memory for its answer, in seconds."""

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

Serialized: TypeAlias = Any
"""The bytes of an answer that was made in a thread; `Any`, as grpc's classes know messages only."""


def check_items(count: int, most: int, what: str) -> None:
    """Raise `TooManyItemsError` unless 1 <= count <= most."""
    if not 1 <= count <= most:
        raise TooManyItemsError(f"{count} {what} in one call; send 1 to {most}")


def when_over(context: Context, work: Callable[[Context], None]) -> None:
    """Do work as soon as the answer of a call is sent, or its client is gone."""
    context.add_done_callback(work)  # type: ignore[arg-type] # no Protocol in the stubs
