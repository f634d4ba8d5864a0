"""How a server ends."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.client import ClientError, ResightClient
from service.config import join_address, split_address
from service.rpc import server
from service.rpc.pb.resight.v1 import gallery_pb2, gallery_pb2_grpc
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


@pytest.mark.slow
async def test_an_open_watch_of_health_does_not_hold_up_the_end(start: Callable[..., Any]) -> None:
    running = await start(drain_s=3600.0)
    async with grpc.aio.insecure_channel(running.ready.grpc_address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        async with asyncio.timeout(60):
            await running.server.stop()
        assert (await watch.read()).status == NOT_SERVING


async def test_watches_of_health_are_limited(start: Callable[..., Any]) -> None:
    """Each keeps its connection from being idle: without a limit they could hold all of them."""
    running = await start(max_streams=2)
    async with grpc.aio.insecure_channel(running.ready.grpc_address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
        for watch in watches:
            assert (await watch.read()).status == SERVING
        assert await running.metric("resight_rpc_in_flight") == 0
        with pytest.raises(grpc.aio.AioRpcError, match="2 streams of health and reflection"):
            await health.Watch(health_pb2.HealthCheckRequest()).read()
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
        watches[0].cancel()
        async with asyncio.timeout(10):
            while True:
                another = health.Watch(health_pb2.HealthCheckRequest())
                try:
                    assert (await another.read()).status == SERVING
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.01)


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


class SlowWay:
    """A relay on the way to a server; answers pass it at 16 MB/s at most, while it is open."""

    def __init__(self, address: str) -> None:
        self.open = threading.Event()
        self.open.set()
        self._server = socket.create_connection(split_address(address))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = join_address(*self._listening.getsockname())
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        client, _ = self._listening.accept()
        self._listening.close()
        threading.Thread(target=self._pass, args=(client, self._server, 0.0), daemon=True).start()
        self._pass(self._server, client, 1 / 256)

    def _pass(self, source: socket.socket, sink: socket.socket, wait_s: float) -> None:
        with suppress(OSError), source, sink:
            while data := source.recv(65536):
                assert source is not self._server or self.open.wait(60)
                sink.sendall(data)
                time.sleep(wait_s)


@pytest.mark.slow
async def test_an_answer_reaches_a_client_behind_a_slow_network(
    start: Callable[..., Any], engine: FakeEngine
) -> None:
    """What the client sends while it reads must not end a connection that the server has closed."""
    running = await start(drain_s=30.0, max_answer_bytes=32 * 1024 * 1024)
    await running.ask(running.client.create_site, "lobby")
    large = {f"a{n}": "x" * 1024 for n in range(16)}
    items = [NewSighting(image=crop(n), camera="c", attributes=large) for n in range(20)]
    await running.ask(running.client.enroll, "lobby", items)
    engine.entered = type(engine.entered)(0)
    engine.gate.clear()
    way = SlowWay(running.ready.grpc_address)
    with ResightClient(way.address, timeout_s=20) as client:
        call = asyncio.create_task(
            running.ask(client.search_many, "lobby", [crop(1)] * 64, limit=len(items))
        )
        await engine.has_entered()
        stopping = asyncio.create_task(running.server.stop())
        await asyncio.sleep(0)
        engine.gate.set()
        await stopping
        assert [len(answer.matches) for answer in await call] == [len(items)] * 64


async def test_a_client_that_does_not_read_its_answer_does_not_hold_up_the_end(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "KEEPALIVE_TIMEOUT_S", 3600.0)  # so that nothing else ends it
    running = await start(drain_s=0.2, max_answer_bytes=32 * 1024 * 1024)
    await running.ask(running.client.create_site, "lobby")
    large = {f"a{n}": "x" * 1024 for n in range(16)}
    items = [
        NewSighting(image=crop(n), camera="c", id=f"s{n}", attributes=large) for n in range(21)
    ]
    await running.ask(running.client.enroll, "lobby", items)
    way = SlowWay(running.ready.grpc_address)
    options = [("grpc.http2.lookahead_bytes", 32 * 1024 * 1024)]  # else gRPC sends only little
    async with grpc.aio.insecure_channel(way.address, options) as channel:
        await channel.channel_ready()
        way.open.clear()
        queries = [gallery_pb2.SearchQuery(sighting="sites/lobby/sightings/s1")] * 64
        call = gallery_pb2_grpc.GalleryServiceStub(channel).SearchSightings(
            gallery_pb2.SearchSightingsRequest(parent="sites/lobby", queries=queries, limit=20)
        )
        made = {"method": "GalleryService/SearchSightings", "code": "OK"}
        while not await running.metric("resight_rpc_duration_seconds_count", **made):
            await asyncio.sleep(0.01)
        async with asyncio.timeout(30):
            await running.server.stop()
        way.open.set()
        with pytest.raises(grpc.aio.AioRpcError):
            await call


@pytest.mark.slow
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


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""What a client sends first: the preface, and a SETTINGS frame without settings."""


async def ends(address: str) -> bool:
    """Whether the server ends a connection whose client says nothing after the preface."""

    def wait() -> bool:
        with socket.create_connection(split_address(address), timeout=10) as connection:
            connection.sendall(PREFACE)
            while connection.recv(4096):
                pass
            return True

    return await asyncio.to_thread(wait)


async def test_a_client_that_is_gone_without_a_word_is_noticed(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "KEEPALIVE_S", 0.3)
    monkeypatch.setattr(server, "KEEPALIVE_TIMEOUT_S", 0.3)
    running = await start()
    assert await ends(running.ready.grpc_address)


async def test_an_idle_connection_is_closed(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "IDLE_S", 0.3)
    running = await start()
    assert await ends(running.ready.grpc_address)
    async with grpc.aio.insecure_channel(running.ready.grpc_address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
        async with asyncio.timeout(60):
            while (state := channel.get_state()) is not grpc.ChannelConnectivity.IDLE:
                await channel.wait_for_state_change(state)
        again = await health.Check(health_pb2.HealthCheckRequest())
        assert again.status == SERVING, "clients connect again by themselves"


async def test_connections_above_the_limit_are_closed(start: Callable[..., Any]) -> None:
    running = await start(max_connections=2)
    assert await running.ask(running.client.sites) == []
    with socket.create_connection(split_address(running.ready.grpc_address)) as second:
        second.sendall(PREFACE)
        assert await asyncio.to_thread(second.recv, 9)
        assert await ends(running.ready.grpc_address)
        assert await running.ask(running.client.sites) == []
    async with asyncio.timeout(10):
        while True:
            with socket.create_connection(split_address(running.ready.grpc_address)) as again:
                again.sendall(PREFACE)
                if await asyncio.to_thread(again.recv, 9):
                    break
