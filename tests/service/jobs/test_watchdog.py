"""A module runs as long as the server holds the other end of its standard input."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.jobs import watchdog

ROOT = Path(__file__).parents[3]
ENOUGH_S = 30.0

HELPER = """
import os, signal, subprocess, sys, time
print("started", __name__, *sys.argv[1:], os.nice(0) - int(sys.argv[2]), flush=True)
if sys.argv[1] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[1] in ("deaf", "parent"):
    child = subprocess.Popen(["sleep", "60"])  # a deaf process's child is deaf, too
    print(child.pid, flush=True)
if sys.argv[1] == "fail":
    sys.exit(7)
time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text(HELPER)
    return tmp_path


def start(path: Path, word: str, *command: str) -> subprocess.Popen[str]:
    command = command or (watchdog.__file__, str(ROOT), "helper", word, str(os.nice(0)))
    return subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{path}"},
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def close(process: subprocess.Popen[str]) -> None:
    """As the end of the server does."""
    assert process.stdin is not None
    process.stdin.close()


def gone(pid: int) -> bool:
    deadline = time.monotonic() + ENOUGH_S
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_it_runs_the_module_at_low_priority_and_gives_its_exit_code(path: Path) -> None:
    with start(path, "fail") as process:
        before = os.nice(0)
        assert line(process) == f"started __main__ fail {before} {min(10, 19 - before)}"
        assert process.wait(ENOUGH_S) == 7


def test_it_ends_with_the_server_and_all_that_it_started(path: Path) -> None:
    with start(path, "parent") as process:
        line(process)
        child = int(line(process))
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        close(process)
        assert process.wait(ENOUGH_S) == -signal.SIGTERM
        assert gone(child)


@pytest.mark.slow
def test_what_does_not_listen_is_killed(path: Path) -> None:
    call = "from service.jobs import watchdog; "
    call += f"watchdog.run({str(ROOT)!r}, 'helper', ['deaf', '{os.nice(0)}'], grace_s=0.5)"
    with start(path, "deaf", "-c", call) as process:
        line(process)
        child = int(line(process))
        closed = time.monotonic()
        close(process)
        assert process.wait(ENOUGH_S) == -signal.SIGKILL
        assert time.monotonic() - closed >= 0.5
        assert gone(child)
