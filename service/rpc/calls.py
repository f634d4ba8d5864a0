"""What the servicers share. A servicer reads a request, calls a package, and writes the answer."""

from __future__ import annotations

from typing import Any, TypeAlias

import grpc.aio

from service.errors import TooManyItemsError

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


def check_items(count: int, most: int, what: str) -> None:
    """Raise `TooManyItemsError` unless 1 <= count <= most."""
    if not 1 <= count <= most:
        raise TooManyItemsError(f"{count} {what} in one call; send 1 to {most}")
