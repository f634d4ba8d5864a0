"""Real processes: a group of their own, a pipe for their life, the server's own installation."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.jobs.process import start_python

ROOT = Path(__file__).resolve().parents[3]

HELPER = """
import os, signal, subprocess, sys, time
word = sys.argv[1]
if word == "say":
    import service
    print(service.__file__, os.getpgid(0) == os.getpid(), flush=True)
elif word == "read":
    os.read(0, 1)
elif word == "sleep":
    child = subprocess.Popen(["sleep", "60"])
    print(child.pid, flush=True)
    time.sleep(60)
elif word == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("deaf", flush=True)
    time.sleep(60)
sys.exit(7)
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a module `helper` on the path, and in the working folder one that lies in wait."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "helper.py").write_text(HELPER)
    (tmp_path / "work" / "service").mkdir(parents=True)
    (tmp_path / "work" / "service" / "__init__.py").write_text("raise SystemExit(66)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "log.txt"


SERVER = """
import asyncio, os, signal, sys
from pathlib import Path
from service.jobs.process import start_python

async def main():
    log = Path(sys.argv[1])
    await start_python("helper", ["sleep"], log)
    while not log.read_text().endswith("\\n"):
        await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def said(log: Path) -> str:
    async with asyncio.timeout(20):
        while not log.exists() or not log.read_text().endswith("\n"):
            await asyncio.sleep(0.01)
    return log.read_text()


async def test_it_runs_what_the_server_runs_in_a_group_of_its_own(log: Path) -> None:
    log.write_text("before\n")
    process = await start_python("helper", ["say"], log)
    assert await process.wait() == 7
    first, second = log.read_text().splitlines()
    path, leads = second.split()
    assert (first, leads) == ("before", "True")
    assert Path(path) == ROOT / "service" / "__init__.py"


@pytest.mark.slow
async def test_its_input_stays_open_while_the_server_lives(log: Path) -> None:
    process = await start_python("helper", ["read"], log)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.wait(), 1)
    process.kill()
    assert await process.wait() == -signal.SIGKILL


async def test_it_does_not_outlive_a_server_that_is_killed(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{log.parent / 'path'}")
    monkeypatch.chdir(log.parent)
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER, str(log))
    assert await server.wait() == -signal.SIGKILL
    child = int(log.read_text())
    async with asyncio.timeout(20):
        while _lives(child):
            await asyncio.sleep(0.01)


async def test_it_is_ended_with_all_that_it_started(log: Path) -> None:
    process = await start_python("helper", ["sleep"], log)
    child = int(await said(log))
    process.terminate()
    assert await process.wait() == -signal.SIGTERM
    async with asyncio.timeout(10):
        while _lives(child):
            await asyncio.sleep(0.01)
    process.kill()  # too late is not an error


@pytest.mark.slow
async def test_it_is_killed_even_if_it_does_not_listen(log: Path) -> None:
    process = await start_python("helper", ["deaf"], log)
    await said(log)
    process.terminate()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.wait(), 0.5)
    process.kill()
    assert await process.wait() == -signal.SIGKILL


INSTALLED = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from service.jobs.process import start_python

async def main():
    process = await start_python("probe", [], Path(sys.argv[2]))
    sys.exit(await process.wait())

asyncio.run(main())
"""


def test_an_installation_does_not_replace_the_standard_library(tmp_path: Path) -> None:
    """Some packages bring modules with names of the standard library."""
    site, log = tmp_path / "site-packages", tmp_path / "log.txt"
    for room in ("service", "models"):
        shutil.copytree(ROOT / room, site / room, ignore=shutil.ignore_patterns("__pycache__"))
    (site / "colorsys.py").write_text("raise SystemExit(66)")
    (site / "probe.py").write_text("import colorsys, service; print(service.__file__)")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", INSTALLED, str(site), str(log)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, log.read_text()
    assert log.read_text() == f"{site / 'service' / '__init__.py'}\n"


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
