"""Idle connections that would take all file descriptors of the server."""

from __future__ import annotations

import functools
import resource
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from service.config import split_address
from service.types import Enrolled
from tests.support.new_sightings import sightings
from tests.support.server_process import ServerProcess

LIMIT = 256


def _processor_s(server: ServerProcess) -> float:
    """Seconds of processor time that it used so far."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_idle_connections_leave_descriptors_for_work(
    start: Callable[..., ServerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = functools.partial(
        subprocess.Popen,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT)),
    )
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", limited)
        server = start()
    assert "at most 96 connections instead of 1024" in server.log
    with ExitStack() as stack, server.client() as client:
        client.create_site("lobby")
        for address, count in ((server.address, LIMIT), (server.http, LIMIT)):
            for _ in range(count):
                stack.enter_context(socket.create_connection(split_address(address), timeout=10))
        results = list(client.enroll("lobby", sightings(10)))
        assert all(isinstance(result, Enrolled) for result in results)
        assert server.page("/healthz") == "SERVING\n"
        begun = _processor_s(server)
        time.sleep(1)
        assert _processor_s(server) - begun < 0.5, "it spins"
    assert "Traceback" not in server.log
