"""`python -P watchdog.py ROOT MODULE ARGUMENT ...`: run a module as long as the server lives.

Standard input is a pipe whose other end the server holds. When it closes, for whatever reason, the
process and all that it started get SIGTERM, and SIGKILL some time later: a server that was killed
leaves no process behind. The process has to lead a process group of its own.

This file is started by its path, because the packages of the server may not be importable before
`ROOT` is on the module path.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

GRACE_S = 60.0
"""Seconds between SIGTERM and SIGKILL for processes whose server is gone."""

_NICENESS = 10
"""Serving has priority."""


def run(root: str, module: str, arguments: Sequence[str], *, grace_s: float = GRACE_S) -> None:
    """Run a module as `python -m` does, with `root` on the module path."""
    os.nice(_NICENESS)
    threading.Thread(target=_end_with_the_server, args=(grace_s,), daemon=True).start()
    sys.path.insert(_after_standard_library(), root)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _after_standard_library() -> int:
    """The place in `sys.path` behind the standard library and before other installations.

    An installed server's root is its site-packages folder, and some packages there have names of
    the standard library (`statistics`, `platform`, ...): they must not replace it.
    """
    library = Path(os.__file__).parent
    standard = (str(library), str(library / "lib-dynload"))
    return max(place for place, entry in enumerate(sys.path) if entry in standard) + 1


def _end_with_the_server(grace_s: float) -> None:
    while os.read(0, 1024):  # not by `sys.stdin`: its lock would outlive the end
        pass
    os.killpg(0, signal.SIGTERM)
    time.sleep(grace_s)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], sys.argv[3:])
