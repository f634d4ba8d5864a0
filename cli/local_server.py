"""Run `resight serve` as a process on a free port, for the demo and the benchmarks."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.errors import ServiceError

_READY = re.compile(r"ready: grpc (\S+?),")
_STOP_SECONDS = 30


class ServerDidNotStartError(ServiceError):
    """The server ended before it was ready; its log, on stderr, says why."""


@contextmanager
def local_server(bundle: Path, data_dir: Path) -> Iterator[str]:
    """Serve `bundle` until the block ends; gives the gRPC address.

    Raises ServerDidNotStartError.
    """
    command = [
        *(sys.executable, "-m", "cli.main", "serve"),
        *("--data-dir", str(data_dir), "--model", str(bundle)),
        *("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            line = process.stdout.readline() if process.stdout else ""
            match = _READY.search(line)
            if match is None:
                said = line.strip() or "no output"
                raise ServerDidNotStartError(f"the server did not start ({said}); see its log")
            yield match[1]
        finally:
            process.terminate()
            process.wait(_STOP_SECONDS)
