"""Clients in processes of their own, so that they and the probe do not share an interpreter."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")

LOW_PRIORITY = 10
"""Of attackers: in the field they have machines of their own. Callers that load the server as they
are answered have the usual one, or there would be no load."""

_START_S = 120.0


class Worker(Generic[T]):
    """A coroutine in another process: `await work(stop, *args)`; leaving the block kills it.

    It begins with `begin`, after all imports. stop: an event that `stop` sets.
    """

    def __init__(
        self, work: Callable[..., Awaitable[T]], *args: Any, niceness: int = LOW_PRIORITY
    ) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(
            target=_run, args=(theirs, work, args, niceness), daemon=True, name=work.__name__
        )
        self._process.start()
        theirs.close()
        if not self._pipe.poll(_START_S):
            raise TimeoutError(f"{work.__name__} has not started after {_START_S:g} s; run again")
        self._pipe.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def begin(self) -> Self:
        """Let it work."""
        self._pipe.send("begin")
        return self

    def stop(self, timeout_s: float = 120.0) -> T:
        """Set its event; what it gives then."""
        with suppress(BrokenPipeError):  # it has ended by itself
            self._pipe.send("stop")
        return self.result(timeout_s)

    def result(self, timeout_s: float) -> T:
        """What it gives; raises what it raised, or TimeoutError."""
        if not self._pipe.poll(timeout_s):
            raise TimeoutError(f"{self._process.name} has not ended after {timeout_s:g} s")
        found = self._pipe.recv()
        if isinstance(found, Exception):
            raise found
        result: T = found
        return result

    def halt(self) -> None:
        """Stop the process where it is: it reads nothing more, and its connections stay."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def kill(self) -> None:
        """End it by force, also where it is halted."""
        self._process.kill()
        self._process.join()


def _run(
    pipe: Connection, work: Callable[..., Awaitable[Any]], args: tuple[Any, ...], niceness: int
) -> None:
    os.nice(niceness)
    pipe.send("ready")
    pipe.recv()
    try:
        found = asyncio.run(_work(pipe, work, args))
    except Exception as error:  # noqa: BLE001 - the parent raises it
        found = error
    with suppress(BrokenPipeError):
        pipe.send(found)


async def _work(
    pipe: Connection, work: Callable[..., Awaitable[Any]], args: tuple[Any, ...]
) -> Any:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def told() -> None:
        loop.remove_reader(pipe.fileno())
        stop.set()

    loop.add_reader(pipe.fileno(), told)
    return await work(stop, *args)
