from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from models.bundle import Bundle
from service.app import Ready, Server, bootstrap
from service.client import ResightClient
from service.config import load_settings
from service.jobs.process import Starter, start_python
from tests.support.fake_engine import FakeEngine


class Running:
    """A server of this process, and a client of it."""

    def __init__(self, server: Server, ready: Ready) -> None:
        self.server = server
        self.ready = ready
        self.client = ResightClient(ready.grpc_address, timeout_s=10)

    async def metric(self, name: str, **labels: str) -> float:
        """A value of the server's metrics page, 0 where it is not there."""

        def work() -> float:
            with urlopen(f"http://{self.ready.http_address}/metrics", timeout=10) as page:
                text = page.read().decode()
            return sum(
                sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name == name and labels.items() <= sample.labels.items()
            )

        return await asyncio.to_thread(work)

    async def ask(self, call: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """A call of the (blocking) client, in a thread; generators are read to their end."""

        def work() -> Any:
            answer = call(*args, **named)
            return list(answer) if hasattr(answer, "__next__") else answer

        return await asyncio.to_thread(work)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def start(
    tiny_bundle: Bundle, engine: FakeEngine, tmp_path: Path
) -> AsyncIterator[Callable[..., Any]]:
    """Start a server with settings of one's own; it stops at the end of the test."""
    running: list[Running] = []

    async def started(
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        start_process: Starter = start_python,
        **settings: Any,
    ) -> Running:
        given = {
            "data_dir": tmp_path / "data",
            "model": str(tiny_bundle.path),
            "listen": "127.0.0.1:0",
            "http": "127.0.0.1:0",
            "drain_s": 5.0,
            **settings,
        }
        server = await bootstrap(
            load_settings(**given),
            load_engine=lambda bundle, settings: (engine, False),
            clock=clock,
            start_process=start_process,
        )
        one = Running(server, await server.start())
        running.append(one)
        return one

    yield started
    engine.gate.set()
    for one in running:
        one.client.close()
        await one.server.stop()
