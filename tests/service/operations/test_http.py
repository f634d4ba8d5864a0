from __future__ import annotations

import inspect
import socket
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from service.config import split_address
from service.errors import PortError
from service.operations.http import Monitor
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
