"""Two processes that `adapt.parallel` joins on the CPU, as `torchrun` would start them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

SECONDS = 300
"""Until a test gives up; the machine may be busy."""


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What `torchrun` tells a process."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass(frozen=True)
class Pair:
    """Calls functions in both processes at once; they have to be importable."""

    pipes: tuple[Connection, ...]

    def __call__(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """`function(world, *args)` of each process, in the order of ranks."""
        for pipe in self.pipes:
            pipe.send((function, args))
        results = []
        for rank, pipe in enumerate(self.pipes):
            assert pipe.poll(SECONDS), f"process {rank} hangs in {function.__name__}"
            done, result = pipe.recv()
            assert done, f"process {rank}: {result}"
            results.append(result)
        return results


@contextmanager
def pair(size: int = 2) -> Iterator[Pair]:
    """Start the processes and end them."""
    context = multiprocessing.get_context("spawn")
    port = free_port()
    ends = [context.Pipe() for _ in range(size)]
    processes = [
        context.Process(target=_serve, args=(there, environment(rank, size, port)), daemon=True)
        for rank, (_, there) in enumerate(ends)
    ]
    for process in processes:
        process.start()
    try:
        yield Pair(tuple(here for here, _ in ends))
    finally:
        for here, _ in ends:
            here.close()
        for process in processes:
            process.join(10)
            if process.is_alive():
                process.kill()


def _serve(pipe: Connection, told: dict[str, str]) -> None:
    os.environ.update(told)
    import torch

    from adapt.parallel import join

    torch.set_num_threads(1)
    _, world = join("cpu")
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, function(world, *args)))
        except Exception:
            pipe.send((False, traceback.format_exc()))
