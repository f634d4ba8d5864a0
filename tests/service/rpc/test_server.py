"""How a server ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.client import ClientError
from service.types import NewSighting
from tests.support.fake_engine import FakeEngine
from tests.support.tiny_model import crop

pytestmark = pytest.mark.asyncio(loop_scope="session")

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def healthz(address: str) -> int:
    def ask() -> int:
        try:
            with urlopen(f"http://{address}/healthz", timeout=10) as page:
                return int(page.status)
        except HTTPError as error:
            return error.code

    return await asyncio.to_thread(ask)


async def test_an_open_watch_of_health_does_not_hold_up_the_end(start: Callable[..., Any]) -> None:
    running = await start(drain_s=30.0)
    async with grpc.aio.insecure_channel(running.ready.grpc_address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        started = time.monotonic()
        await running.server.stop()
        assert time.monotonic() - started < 10
        assert (await watch.read()).status == NOT_SERVING


async def test_a_running_call_is_answered_whole_while_health_says_not_serving(
    start: Callable[..., Any], engine: FakeEngine
) -> None:
    """The answer has some 20 MB: sending it takes longer than making it."""
    running = await start(drain_s=30.0, max_answer_bytes=32 * 1024 * 1024)
    client = running.client
    await running.ask(client.create_site, "lobby")
    large = {f"a{n}": "x" * 1024 for n in range(16)}
    items = [NewSighting(image=crop(n), camera="c", attributes=large) for n in range(20)]
    await running.ask(client.enroll, "lobby", items)
    assert await healthz(running.ready.http_address) == 200
    engine.entered = type(engine.entered)(0)
    engine.gate.clear()
    call = asyncio.create_task(
        running.ask(client.search_many, "lobby", [crop(1)] * 64, limit=len(items))
    )
    await engine.has_entered()
    stopping = asyncio.create_task(running.server.stop())
    await asyncio.wait([stopping], timeout=0.2)
    assert not stopping.done()
    assert await healthz(running.ready.http_address) == 503
    with pytest.raises(ClientError):
        await running.ask(client.sites)
    engine.gate.set()
    answers = await call
    await stopping
    assert [len(answer.matches) for answer in answers] == [len(items)] * 64


async def test_a_call_that_takes_longer_than_the_drain_is_ended(
    start: Callable[..., Any], engine: FakeEngine
) -> None:
    running = await start(drain_s=0.2)
    engine.gate.clear()
    call = asyncio.create_task(running.ask(running.client.embed, [crop(1)]))
    await engine.has_entered()
    stopping = asyncio.create_task(running.server.stop())
    with pytest.raises(ClientError):
        await call
    engine.gate.set()
    await stopping
