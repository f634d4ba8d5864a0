"""One call in a process of its own, and what it holds in memory."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

KB = 1024


def alone(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call in a fresh process, so that nobody else's memory is counted.

    Raises BrokenProcessPool: the process was killed (memory).
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(work, *args, **kwargs).result()


def memory(name: str, file: str = "/proc/self/status") -> int:
    """A line of Linux' own count, in bytes."""
    lines = Path(file).read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) * KB
