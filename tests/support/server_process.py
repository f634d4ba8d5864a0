"""A real server in a process of its own, as `resight serve` starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from service.client import ResightClient

START_S = 120.0
"""How long anything may take before a test gives up; a busy machine needs seconds, not this."""


def resight(*arguments: object, env: dict[str, str] | None = None) -> list[str]:
    """The command line of `resight` with arguments."""
    return [sys.executable, "-m", "cli.main", *map(str, arguments)]


class ServerProcess:
    """A running `resight serve`."""

    def __init__(self, data_dir: Path, model: Path, *options: object, **settings: object) -> None:
        self.data_dir = data_dir
        self._log = data_dir.parent / f"{data_dir.name}.log"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RESIGHT_")}
        environment |= {f"RESIGHT_{name.upper()}": str(v) for name, v in settings.items()}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                resight(
                    "serve",
                    "--data-dir",
                    data_dir,
                    "--model",
                    model,
                    "--listen",
                    "127.0.0.1:0",
                    "--http",
                    "127.0.0.1:0",
                    *options,
                ),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        assert self.process.stdout is not None
        self.ready = self.process.stdout.readline()
        found = re.search(r"grpc (\S+), http (\S+),", self.ready)
        if found is None:
            self.process.wait(START_S)
            pytest.fail(f"the server did not start:\n{self.log}")
        self.address, self.http = found.groups()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def client(self) -> ResightClient:
        return ResightClient(self.address, timeout_s=START_S)

    def page(self, path: str) -> str:
        with urlopen(f"http://{self.http}{path}", timeout=START_S) as answer:
            text: str = answer.read().decode()
            return text

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(START_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(START_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


def memory(server: ServerProcess, field: str = "VmRSS") -> int:
    """Bytes of a server's memory: now, or of another field of /proc/PID/status (VmHWM: peak)."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024
