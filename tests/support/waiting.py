"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable

_PATIENCE_S = 120.0


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
