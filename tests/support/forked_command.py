"""`resight` in a process of its own that need not import for seconds: a fork of one that has."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, Self

import pytest

from tests.support.two_processes import forks
from tests.support.waiting import eventually

ENOUGH_S = 300.0


class ForkedCommand:
    """A command as typed, on one thread and with thin trunks; leaving the block kills it.

    log: file that gets its stderr. halt_at: the process halts before this training step, counted
    from 1 in each process; with 0 it does not. told: environment variables.
    """

    def __init__(
        self,
        log: Path,
        *arguments: object,
        halt_at: int = 0,
        told: Mapping[str, str] | None = None,
    ) -> None:
        words = ["resight", *map(str, arguments)]
        self._log = log
        self._process = forks().Process(
            target=_resight, args=(words, log, halt_at, dict(told or {}))
        )
        self._process.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.join()

    @property
    def log(self) -> str:
        """What it wrote to stderr."""
        return self._log.read_text()

    @property
    def is_over(self) -> bool:
        return self._process.exitcode is not None

    def wait_until_halted(self) -> None:
        """Until it is at `halt_at`."""
        state = Path(f"/proc/{self._process.pid}/stat")

        def halted() -> bool:
            assert not self.is_over, self.log
            return state.read_text().rpartition(")")[2].split()[0] == "T"

        eventually(halted)

    def send(self, number: signal.Signals) -> None:
        """Send a signal; a halted process then continues."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)
        if number != signal.SIGKILL:  # that one ends a halted process, too
            os.kill(self._process.pid, signal.SIGCONT)

    def wait(self) -> int:
        """Until it has ended; the exit code, negative for a signal."""
        self._process.join(ENOUGH_S)
        assert self._process.exitcode is not None, f"it hangs: {self.log}"
        return self._process.exitcode


def _resight(words: list[str], log: Path, halt_at: int, told: dict[str, str]) -> NoReturn:
    with log.open("wb") as out:
        os.dup2(out.fileno(), sys.stderr.fileno())
    os.environ.update(told)
    sys.argv = words

    import torch

    from adapt.training import optimizer
    from cli.main import main
    from tests.support.thin_trunks import thin_trunks

    torch.set_num_threads(1)
    steps = 0

    def halting(*given: Any) -> dict[str, float]:
        nonlocal steps
        steps += 1
        if steps == halt_at:
            os.kill(os.getpid(), signal.SIGSTOP)
        return optimizer.train_step(*given)

    with pytest.MonkeyPatch.context() as patch, thin_trunks():
        patch.setattr("adapt.training.loop.train_step", halting)
        main()
    sys.exit(0)
