"""The attacked server, a process, and what Linux says of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from benchmarks.alone import memory
from service.client import ResightClient

_READY = re.compile(r"ready: grpc (\S+?), http (\S+?),")
_STOP_S = 60.0
_CALL_S = 600.0


class AttackedServer:
    """`resight serve` on free ports; leaving the block stops it.

    code: the checkout that it runs. log: gets what it says. settings: by name, without RESIGHT_.
    descriptors: its limit of open ones, as `ulimit -n` sets it; 0: as it is here.
    """

    def __init__(
        self,
        code: Path,
        data_dir: Path,
        log: Path,
        settings: Mapping[str, str],
        *,
        descriptors: int = 0,
    ) -> None:
        self.data_dir = data_dir
        self.log = log
        command = [
            *(sys.executable, "-m", "cli.main", "serve", "--data-dir", str(self.data_dir)),
            *("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"),
        ]
        limit = f"ulimit -n {descriptors} && " if descriptors else ""
        with self.log.open("wb") as said:
            self._process = subprocess.Popen(
                ["/bin/bash", "-c", f'{limit}exec "$@"', "serve", *command],
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                cwd=code,
                env=_environment(code, settings),
            )
        assert self._process.stdout is not None
        ready = _READY.search(self._process.stdout.readline())
        if ready is None:
            self._process.wait(_STOP_S)
            raise SystemExit(f"the server did not start:\n{self.log.read_text()[-4000:]}")
        self.address, self.http = ready.groups()
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def database(self) -> Path:
        """The file of the store."""
        return self.data_dir / "resight.db"

    @contextmanager
    def client(self) -> Iterator[ResightClient]:
        """A connection for what an attack prepares."""
        with ResightClient(self.address, timeout_s=_CALL_S) as client:
            yield client

    def tracebacks(self) -> int:
        """How many its log has."""
        return self.log.read_text(errors="replace").count("Traceback")

    def children(self) -> list[int]:
        """Processes that it has started."""
        found = (file.read_text() for file in Path(f"/proc/{self.pid}/task").glob("*/children"))
        return [int(pid) for text in found for pid in text.split()]


def _environment(code: Path, settings: Mapping[str, str]) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RESIGHT_")}
    # As a user starts it: this benchmark's own process may be held to one thread.
    kept.pop("OMP_NUM_THREADS", None)
    ours = {f"RESIGHT_{name.upper()}": value for name, value in settings.items()}
    return kept | ours | {"PYTHONPATH": str(code)}


@dataclass(frozen=True, slots=True)
class Sample:
    """A process at one moment.

    at: `time.monotonic`. resident: bytes, but for mapped files, which Linux drops when it needs
    room. descriptors: open ones. cpu_s: used so far.
    """

    at: float
    resident: int
    descriptors: int
    cpu_s: float


def look(pid: int) -> Sample:
    """A process as it is now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return Sample(
        time.monotonic(),
        memory("RssAnon", f"/proc/{pid}/status"),
        len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208 - no path object for each of hundreds
        ticks / os.sysconf("SC_CLK_TCK"),
    )


class Sampler:
    """Looks at a process ten times a second, within its block."""

    def __init__(self, pid: int, every_s: float = 0.1) -> None:
        self._pid = pid
        self._every_s = every_s
        self._samples: list[Sample] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(self._every_s):
            self._samples.append(look(self._pid))

    def between(self, begin: float, end: float) -> list[Sample]:
        """Samples of a time; the nearest one where there is none."""
        found = [s for s in self._samples if begin <= s.at <= end]
        return found or [min(self._samples, key=lambda s: abs(s.at - end))]


def median_resident(samples: list[Sample]) -> float:
    """Bytes."""
    return float(np.median([sample.resident for sample in samples]))


def cores(samples: list[Sample]) -> float:
    """Cores that were used, on average."""
    first, last = samples[0], samples[-1]
    return (last.cpu_s - first.cpu_s) / max(last.at - first.at, 1e-9)
