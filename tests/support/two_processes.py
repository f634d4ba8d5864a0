"""Two processes that `adapt.runtime.distributed` joins on the CPU, as `torchrun` starts them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
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
    """Calls functions in both processes at once; they have to be importable.

    An error of ours ends the process, and its reason is the result; so is "gone" of a process that
    ended in another way.
    """

    pipes: tuple[Connection, ...]

    def __call__(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """`function(group, *args)` of each process, in the order of ranks."""
        for pipe in self.pipes:
            pipe.send((function, args))
        results = []
        for rank, pipe in enumerate(self.pipes):
            assert pipe.poll(SECONDS), f"process {rank} hangs in {function.__name__}"
            try:
                done, result = pipe.recv()
            except EOFError:
                done, result = True, "gone"
            assert done, f"process {rank}: {result}"
            results.append(result)
        return results


def forks() -> ForkServerContext:
    """Starts processes as forks of one that has imported what trains, and done nothing with it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.shared_runs"])
    return context


@contextmanager
def pair(size: int = 2) -> Iterator[Pair]:
    """Start the processes and end them."""
    context = forks()
    port = free_port()
    ends = [context.Pipe() for _ in range(size)]
    processes = [
        context.Process(target=_serve, args=(there, environment(rank, size, port)), daemon=True)
        for rank, (_, there) in enumerate(ends)
    ]
    for process, (_, there) in zip(processes, ends, strict=True):
        process.start()
        there.close()
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

    from adapt.errors import AdaptError
    from adapt.runtime.distributed import join

    torch.set_num_threads(1)
    _, group = join("cpu")
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, function(group, *args)))
        except AdaptError as error:  # as the command line does, the process ends with it
            pipe.send((True, error.reason))
            return
        except Exception:  # noqa: BLE001 (the test shows it)
            pipe.send((False, traceback.format_exc()))
