from __future__ import annotations

import errno
import inspect
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen
from wsgiref.simple_server import WSGIServer

import pytest

from service.config import split_address
from service.errors import PortError
from service.operations import http
from service.operations.http import MAX_CONNECTIONS, Monitor
from service.operations.metrics import Metrics

serving = {"now": True}


@pytest.fixture
def monitor(metrics: Metrics) -> Iterator[Monitor]:
    monitor = Monitor.start("127.0.0.1:0", metrics.registry, lambda: serving["now"])
    yield monitor
    monitor.close()


def get(monitor: Monitor, path: str) -> tuple[int, str]:
    try:
        with urlopen(f"http://{monitor.address}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def test_metrics(monitor: Monitor, metrics: Metrics) -> None:
    metrics.queue_depth.set(7)
    status, text = get(monitor, "/metrics")
    assert status == 200
    assert "\nresight_queue_depth 7.0\n" in text
    assert "process_resident_memory_bytes" in text


def test_healthz_follows_the_server(monitor: Monitor) -> None:
    assert get(monitor, "/healthz") == (200, "SERVING\n")
    serving["now"] = False
    try:
        assert get(monitor, "/healthz") == (503, "NOT_SERVING\n")
    finally:
        serving["now"] = True


def test_other_paths(monitor: Monitor) -> None:
    assert get(monitor, "/../etc/passwd")[0] == 404


def test_a_taken_port_is_reported(metrics: Metrics) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(PortError, match="choose another --http"):
            Monitor.start(address, metrics.registry, lambda: True)


def test_an_idle_connection_is_closed(metrics: Metrics) -> None:
    monitor = Monitor.start("127.0.0.1:0", metrics.registry, lambda: True, idle_s=0.2)
    try:
        with socket.create_connection(split_address(monitor.address), timeout=15) as idle:
            assert idle.recv(1) == b""
    finally:
        monitor.close()


def test_an_idle_connection_ends_without_a_traceback(
    metrics: Metrics, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    monitor = Monitor.start("127.0.0.1:0", metrics.registry, lambda: True, idle_s=0.1)
    with socket.create_connection(split_address(monitor.address), timeout=15) as idle:
        assert idle.recv(1) == b""
    monitor.close()
    assert "Traceback" not in capsys.readouterr().err
    (record,) = [record for record in caplog.records if record.name == "resight.monitor"]
    assert record.levelno == logging.DEBUG
    assert "TimeoutError" in record.getMessage()


def test_the_oldest_connection_makes_room_for_the_newest(monitor: Monitor) -> None:
    address = split_address(monitor.address)
    with ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(address, timeout=4))
            for _ in range(MAX_CONNECTIONS + 1)
        ]
        assert get(monitor, "/other")[0] == 404
        for closed in idle[:2]:
            assert closed.recv(1) == b""
        idle[2].setblocking(False)
        with pytest.raises(BlockingIOError):
            idle[2].recv(1)


def test_a_fault_of_a_page_is_in_the_log(
    monitor: Monitor, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as request:
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            monitor._server.handle_error(request, ("127.0.0.1", 1))
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info


def test_a_full_table_of_descriptors_does_not_make_the_port_spin(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http, "_REST_S", 0.05)
    attempts = threading.Semaphore(0)
    full = threading.Event()
    accept = WSGIServer.get_request

    def get_request(server: WSGIServer) -> Any:
        if full.is_set():
            attempts.release()
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(server)

    monkeypatch.setattr(WSGIServer, "get_request", get_request)
    monitor = Monitor.start("127.0.0.1:0", metrics.registry, lambda: True)
    full.set()
    begun = time.monotonic()
    with socket.create_connection(split_address(monitor.address), timeout=15):
        for _ in range(3):
            assert attempts.acquire(timeout=10)
        assert time.monotonic() - begun >= 2 * 0.05, "it rests between two attempts"
    full.clear()
    assert get(monitor, "/healthz")[0] in (200, 503)
    monitor.close()
    assert (
        len([record for record in caplog.records if "Too many open files" in record.message]) == 1
    )


def test_by_default_an_idle_connection_is_closed_too() -> None:
    idle_s = inspect.signature(Monitor.start).parameters["idle_s"].default
    assert 0 < idle_s <= 10


def test_ipv6(metrics: Metrics) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    monitor = Monitor.start("[::1]:0", metrics.registry, lambda: True)
    try:
        assert monitor.address.startswith("[::1]:")
        assert get(monitor, "/healthz")[0] == 200
    finally:
        monitor.close()
