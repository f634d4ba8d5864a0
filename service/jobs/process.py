"""Starting and ending the processes of adaptations."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import service
from service.jobs import watchdog

_ROOT = Path(service.__file__).resolve().parents[1]


class Process(Protocol):
    """A process that was started."""

    async def wait(self) -> int:
        """Its exit code; negative: the signal that ended it."""
        ...

    def terminate(self) -> None:
        """Ask it to save its state and end."""
        ...

    def kill(self) -> None:
        """Kill it and all that it started."""
        ...


class Starter(Protocol):
    """Starts Python modules as processes."""

    async def __call__(self, module: str, arguments: Sequence[str], log: Path) -> Process:
        """Run `python -m module arguments`; its output is appended to `log`. Raises OSError."""
        ...


class _Subprocess:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        # A thread of its own: a process takes hours, and pools are for short work.
        threading.Thread(target=self._wait, args=(self._exit.get_loop(),), daemon=True).start()

    async def wait(self) -> int:
        return await asyncio.shield(self._exit)

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        code = self._process.wait()
        with suppress(RuntimeError):  # the loop is closed: nobody wants to know any more
            loop.call_soon_threadsafe(self._exit.set_result, code)


async def start_python(module: str, arguments: Sequence[str], log: Path) -> Process:
    """`Starter` of real processes.

    Each leads a process group of its own: Ctrl-C for the server does not reach it, and it can be
    killed with all that it started. Its standard input is a pipe that is never written to: when the
    server ends, for whatever reason, it ends, too (`service.jobs.watchdog`). It runs the same
    installation as the server, whatever the working folder contains.
    """
    return _Subprocess(await asyncio.to_thread(_popen, module, arguments, log))


def _popen(module: str, arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    # Not by the event loop: it forks, and gRPC's threads then crash the new process before it has
    # become another program. `subprocess` takes vfork, which knows no handlers of forks.
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - all of it is ours
            [sys.executable, "-P", watchdog.__file__, str(_ROOT), module, *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
