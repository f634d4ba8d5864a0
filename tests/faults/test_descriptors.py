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
from tests.support.waiting import eventually

LIMIT = 256


def _rests(server: ServerProcess) -> bool:
    """Whether all of its threads sleep, at each of some looks; one that spins never does."""
    for _ in range(20):
        for thread in Path(f"/proc/{server.process.pid}/task").iterdir():
            state = (thread / "stat").read_text().rpartition(")")[2].split()[0]
            if state == "R":
                return False
        time.sleep(0.01)
    return True


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
        eventually(lambda: _rests(server))
    assert "Traceback" not in server.log
