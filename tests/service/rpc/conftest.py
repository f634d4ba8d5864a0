from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from models.bundle import Bundle
from service.app import bootstrap
from service.config import load_settings
from service.jobs.process import Starter, start_python
from tests.support.fake_engine import FakeEngine
from tests.support.raw_client import RawClient
from tests.support.running_server import Running


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="session")
def shared_engine() -> FakeEngine:
    """Of the shared server: to be looked at only."""
    return FakeEngine()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_server(
    tiny_bundle: Bundle, shared_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    """A server for the tests that need no settings of their own, and no state but a site.

    It runs on the loop of the session, as all tests of this folder do.
    """
    running = await _run(
        shared_engine,
        data_dir=tmp_path_factory.mktemp("shared") / "data",
        model=str(tiny_bundle.path),
        max_items=64,
    )
    yield running
    await running.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def site(shared_server: Running) -> str:
    """A new, empty site of the shared server."""
    created = await shared_server.ask(
        shared_server.client.create_site, f"site-{uuid.uuid4().hex[:12]}"
    )
    return str(created.id)


@pytest.fixture
def raw(shared_server: Running) -> Iterator[RawClient]:
    with RawClient(shared_server.ready.grpc_address) as raw:
        yield raw


@pytest_asyncio.fixture(loop_scope="session")
async def start(
    tiny_bundle: Bundle, engine: FakeEngine, tmp_path: Path
) -> AsyncIterator[Callable[..., Any]]:
    """Start a server with settings of one's own; it stops at the end of the test."""
    started: list[Running] = []

    async def start(
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        start_process: Starter = start_python,
        **settings: Any,
    ) -> Running:
        given = {"data_dir": tmp_path / "data", "model": str(tiny_bundle.path), **settings}
        started.append(await _run(engine, clock, start_process, **given))
        return started[-1]

    yield start
    engine.gate.set()
    for running in started:
        await running.stop()


async def _run(
    engine: FakeEngine,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    start_process: Starter = start_python,
    **settings: Any,
) -> Running:
    local = {"listen": "127.0.0.1:0", "http": "127.0.0.1:0", "drain_s": 5.0}
    server = await bootstrap(
        load_settings(**local | settings),
        load_engine=lambda bundle, settings: (engine, False),
        clock=clock,
        start_process=start_process,
    )
    return Running(server, await server.start())
