"""`python -m service.jobs.watchdog MODULE ARGUMENT ...`: run a module as long as the server lives.

Standard input is a pipe whose other end the server holds. When it closes, however that came, the
process and all that it started are asked to end, and after some time ended: a server that was
killed leaves none behind. The process has to lead a group of its own.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Sequence

GRACE_S = 60.0
"""Processes without a server are ended after so many seconds, wherever they stand."""

_NICENESS = 10
"""Serving goes first."""


def run(module: str, arguments: Sequence[str], *, grace_s: float = GRACE_S) -> None:
    """Run a module as `python -m` does."""
    os.nice(_NICENESS)
    threading.Thread(target=_end_with_the_server, args=(grace_s,), daemon=True).start()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end_with_the_server(grace_s: float) -> None:
    while os.read(0, 1024):  # not by `sys.stdin`: its lock would outlive the end
        pass
    os.killpg(0, signal.SIGTERM)
    time.sleep(grace_s)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2:])
