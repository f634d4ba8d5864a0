"""Processes of adaptations, and how they are started and ended."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import service

_ROOT = Path(service.__file__).resolve().parents[1]


class Process(Protocol):
    """A process that was started."""

    async def wait(self) -> int:
        """Its exit code; negative: the signal that ended it."""
        ...

    def terminate(self) -> None:
        """Ask it to keep its state and end."""
        ...

    def kill(self) -> None:
        """End it and all that it started."""
        ...


class Starter(Protocol):
    """Starts Python modules as processes."""

    async def __call__(self, module: str, arguments: Sequence[str], log: Path) -> Process:
        """Run `python -m module arguments`; what it says is appended to `log`. Raises OSError."""
        ...


class _Subprocess:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def wait(self) -> int:
        return await self._process.wait()

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


async def start_python(module: str, arguments: Sequence[str], log: Path) -> Process:
    """`Starter` of real processes.

    Each leads a process group of its own: Ctrl-C for the server is not for it, and it can be ended
    with all that it started. Its standard input is a pipe that nobody writes to: it ends with the
    server, however that ends. It runs the same installation as the server, whatever lies in the
    working folder.
    """
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", module, *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": _python_path(), "PYTHONUNBUFFERED": "1"},
        )
    return _Subprocess(process)


def _python_path() -> str:
    return os.pathsep.join(part for part in (str(_ROOT), os.environ.get("PYTHONPATH")) if part)
