"""Requests as they arrive over real connections; a call that never sends one is a stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service.jobs.records import MAX_OVERRIDE, MAX_OVERRIDES
from service.rpc import arrival
from service.rpc.pb.resight.v1 import adaptation_pb2, embedding_pb2, gallery_pb2, model_pb2
from service.types import MAX_FILTER_VALUES, MAX_LABEL
from tests.support.fake_engine import FakeEngine
from tests.support.raw_client import reason_of
from tests.support.running_server import Running
from tests.support.tiny_model import crop

pytestmark = pytest.mark.asyncio(loop_scope="session")

Start = Callable[..., Awaitable[Any]]

MIB = 1024 * 1024
EMBED = "/resight.v1.EmbeddingService/Embed"
ENROLL = "/resight.v1.GalleryService/EnrollSightings"
SEARCH = "/resight.v1.GalleryService/SearchSightings"
LIST = "/resight.v1.ModelService/ListModels"
HEALTH = "/grpc.health.v1.Health/Check"
WATCH_HEALTH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


class Slow:
    """A call whose request does not come before `send`."""

    def __init__(self, channel: Any, method: str = EMBED) -> None:
        self._message: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self.call = channel.stream_unary(method)(self._requests())

    async def _requests(self) -> AsyncIterator[bytes]:
        message = await self._message
        if message is not None:
            yield message

    def send(self, message: bytes | None) -> None:
        self._message.set_result(message)

    async def failure(self) -> tuple[str, str]:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await self.call
        self.end()
        return reason_of(error.value)

    def end(self) -> None:
        """Cancel the call, and end the task that waits for its request."""
        self.call.cancel()
        if not self._message.done():
            self._message.set_result(None)


def channel(running: Running) -> Any:
    """A connection of its own, another client, that sends bytes as they are."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.insecure_channel(running.ready.grpc_address, options=options)


async def until_running(running: Running, calls: int) -> None:
    async with asyncio.timeout(10):
        while await running.metric("resight_rpc_in_flight") != calls:
            await asyncio.sleep(0.01)


async def until_begun(running: Running, calls: int, method: str) -> None:
    """Wait until calls of a method have begun; some of them may be over by then."""
    label = method.removeprefix("/resight.v1.")
    begun = 0.0
    async with asyncio.timeout(10):
        while begun < calls:
            ended = await running.metric("resight_rpc_duration_seconds_count", method=label)
            begun = ended + await running.metric("resight_rpc_in_flight")


@pytest.mark.parametrize("size", [3, arrival.LARGE + 1])
async def test_bytes_that_are_no_message_are_the_callers_fault(
    shared_server: Running, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    async with channel(shared_server) as wire:
        for method in (EMBED, LIST, "/resight.v1.AdaptationService/WatchAdaptation"):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await wire.unary_unary(method)(b"\xff" * size)
            assert reason_of(error.value) == ("INVALID_ARGUMENT", "BAD_MESSAGE")
        for foreign in (
            "/grpc.health.v1.Health/Check",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await wire.unary_unary(foreign)(b"\xff" * size)
            assert reason_of(error.value) == ("INVALID_ARGUMENT", "BAD_MESSAGE")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_call_without_a_message(shared_server: Running) -> None:
    async with channel(shared_server) as wire:
        empty = Slow(wire)
        empty.send(None)
        assert await empty.failure() == ("INVALID_ARGUMENT", "BAD_MESSAGE")


async def test_a_request_that_does_not_arrive_in_time(start: Start) -> None:
    running = await start(max_transfer_s=0.05)
    async with channel(running) as wire:
        for method in (EMBED, LIST):
            assert await Slow(wire, method).failure() == ("INVALID_ARGUMENT", "BAD_MESSAGE")
    await until_running(running, 0)


async def test_calls_above_the_limit_are_refused_before_they_are_read(start: Start) -> None:
    running = await start(max_concurrent_calls=1)
    async with channel(running) as wire:
        first = Slow(wire)
        await until_running(running, 1)
        assert await Slow(wire).failure() == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        first.send(embedding_pb2.EmbedRequest(images=[b"x"]).SerializeToString())
        answer = embedding_pb2.EmbedResponse.FromString(await first.call)
        assert len(answer.results) == 1


async def test_calls_without_a_message_leave_the_places_to_others(start: Start) -> None:
    running = await start(max_concurrent_calls=2)
    async with channel(running) as one, channel(running) as two:
        silent = [Slow(one, method) for method in (EMBED, LIST)]
        await until_running(running, 2)
        assert await Slow(one).failure() == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        answer = await two.unary_unary(LIST)(b"")
        assert model_pb2.ListModelsResponse.FromString(answer).models
        for call in silent:
            call.end()


async def test_silent_streams_of_health_and_reflection_leave_the_places_to_others(
    start: Start,
) -> None:
    running = await start(max_streams=2)
    async with channel(running) as one, channel(running) as two:
        silent = [Slow(one, method) for method in (WATCH_HEALTH, REFLECTION)]
        await one.unary_unary(LIST)(b"")  # those before have begun
        watch = two.unary_stream(WATCH_HEALTH)(b"")
        assert await watch.read()
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        described = two.stream_stream(REFLECTION)(iter([asked.SerializeToString()]))
        assert await described.read()
        watch.cancel()
        for call in silent:
            call.end()


@pytest.mark.parametrize("method", [HEALTH, WATCH_HEALTH, REFLECTION])
async def test_silent_calls_of_health_and_reflection_do_not_pile_up(
    start: Start, method: str
) -> None:
    running = await start(max_streams=2, max_concurrent_calls=2)
    async with channel(running) as one, channel(running) as two, asyncio.timeout(10):
        silent = [Slow(one, method) for _ in range(2)]
        await one.unary_unary(LIST)(b"")  # those before have begun
        assert await Slow(one, method).failure() == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        assert await two.unary_unary(HEALTH)(b"")
        watch = two.unary_stream(WATCH_HEALTH)(b"")
        assert await watch.read()
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        described = two.stream_stream(REFLECTION)(iter([asked.SerializeToString()]))
        assert await described.read()
        watch.cancel()
        for call in silent:
            call.end()
        reason = "QUEUE_FULL"  # until the server knows that they are gone
        while reason == "QUEUE_FULL":
            again = Slow(one, method)
            again.send(b"not a message")
            _, reason = await again.failure()
        assert reason == "BAD_MESSAGE"


async def test_a_call_that_arrives_when_all_places_are_taken_is_refused(
    start: Start, engine: FakeEngine
) -> None:
    running = await start(max_concurrent_calls=1)
    engine.gate.clear()
    async with channel(running) as one, channel(running) as two:
        late = Slow(one, LIST)
        await until_running(running, 1)
        request = embedding_pb2.EmbedRequest(images=[crop(1)]).SerializeToString()
        embedding = asyncio.ensure_future(two.unary_unary(EMBED)(request))
        await engine.has_entered()
        late.send(b"")
        assert await late.failure() == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        engine.gate.set()
        assert await embedding


async def test_silent_calls_make_room_for_short_ones_and_for_health(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "ARRIVAL_S", 20.0)
    monkeypatch.setattr(arrival, "SLOW_S", 20.0)
    running = await start()
    async with AsyncExitStack() as stack:
        wires = [
            await stack.enter_async_context(channel(running)) for _ in range(arrival.SMALL_PLACES)
        ]
        silent = [Slow(wire, LIST) for wire in wires]
        silent += [Slow(wire, HEALTH) for wire in wires]
        silent += [Slow(wire, REFLECTION) for wire in wires]
        await until_begun(running, len(wires), LIST)
        async with asyncio.timeout(10), channel(running) as wire:
            assert await wire.unary_unary(LIST)(b"")
            assert await wire.unary_unary(HEALTH)(b"")
            asked = reflection_pb2.ServerReflectionRequest(list_services="")
            stub = reflection_pb2_grpc.ServerReflectionStub(wire)
            assert [answer async for answer in stub.ServerReflectionInfo(iter([asked]))]
        for call in silent:
            call.end()


@pytest.mark.parametrize(
    ("method", "most"),
    [
        (LIST, arrival.MAX_SMALL_BYTES),
        ("/resight.v1.GalleryService/ListSightings", arrival.MAX_LIST_BYTES),
        (HEALTH, arrival.MAX_FOREIGN_BYTES),
        (REFLECTION, arrival.MAX_FOREIGN_BYTES),
    ],
)
async def test_a_request_larger_than_one_of_its_method_can_be(
    shared_server: Running, method: str, most: int
) -> None:
    async with channel(shared_server) as wire:
        with pytest.raises(grpc.aio.AioRpcError, match=f"more than the {most}") as error:
            await wire.unary_unary(method)(bytes(most + 1))
        assert reason_of(error.value) == ("INVALID_ARGUMENT", "BAD_MESSAGE")
        with pytest.raises(grpc.aio.AioRpcError, match="not a message of this method"):
            await wire.unary_unary(method)(bytes(most))


async def test_the_largest_requests_without_images_are_taken(
    shared_server: Running, site: str
) -> None:
    value = "\U0001d11e" * MAX_LABEL
    values = [value] * MAX_FILTER_VALUES
    lists = gallery_pb2.ListSightingsRequest(
        parent=f"sites/{site}",
        page_token="x" * 1000,
        filter=gallery_pb2.SightingFilter(
            cameras=values, exclude_cameras=values, persons=values, exclude_tracks=values
        ),
    )
    assert lists.ByteSize() < arrival.MAX_LIST_BYTES
    adaptation = adaptation_pb2.StartAdaptationRequest(
        parent=f"sites/{site}", overrides=["\U0001d11e" * MAX_OVERRIDE] * MAX_OVERRIDES
    )
    assert adaptation.ByteSize() < arrival.MAX_SMALL_BYTES - 1000
    async with channel(shared_server) as wire:
        method = "/resight.v1.GalleryService/ListSightings"
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await wire.unary_unary(method)(lists.SerializeToString())
        assert reason_of(error.value) == ("INVALID_ARGUMENT", "BAD_PAGE_TOKEN"), "it was read"


async def test_calls_wait_until_there_is_memory_for_their_requests(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await start(
        max_message_bytes=4 * MIB, max_image_bytes=MIB, max_requests_bytes=8 * MIB
    )
    request = embedding_pb2.EmbedRequest(images=[b"x"]).SerializeToString()
    async with channel(running) as one, channel(running) as two, channel(running) as three:
        slow = [Slow(wire) for wire in (one, two)]
        await until_running(running, 2)
        waiting = Slow(three)
        waiting.send(request)
        await until_running(running, 3)
        answer = await three.unary_unary(LIST)(b"")
        assert model_pb2.ListModelsResponse.FromString(answer).models, "of no images: own memory"
        slow[0].send(request)
        assert embedding_pb2.EmbedResponse.FromString(await waiting.call).results
        monkeypatch.setattr(arrival, "ARRIVAL_S", 0.05)
        again = Slow(one)
        await until_running(running, 2)
        assert await Slow(three).failure() == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        again.send(request)
        slow[1].send(request)
    assert await running.metric("resight_calls_rejected_total", reason="bytes") == 1


@pytest.mark.slow
async def test_a_slow_request_makes_room_for_a_client_that_waits(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "SLOW_S", 0.1)
    monkeypatch.setattr(arrival, "ARRIVAL_S", 20.0)
    running = await start(
        max_message_bytes=4 * MIB, max_image_bytes=MIB, max_requests_bytes=16 * MIB
    )
    async with channel(running) as one, channel(running) as two:
        slow = [Slow(one) for _ in range(2)]
        await until_running(running, 2)
        more = Slow(one)  # waits, too, but for those of its own client
        await until_running(running, 3)
        await asyncio.sleep(3 * arrival._LOOK_S)
        assert await running.metric("resight_rpc_in_flight") == 3
        others = [Slow(two) for _ in range(2)]
        await until_running(running, 5)
        more.end()  # else one of the other client makes room for it, too, once its own client has
        await until_running(running, 4)
        request = embedding_pb2.EmbedRequest(images=[b"x"]).SerializeToString()
        waiting = channel(running)
        async with waiting:
            assert await waiting.unary_unary(EMBED)(request)
        # Its own client may hear of it later than the one that it made room for has its answer.
        ends = [asyncio.ensure_future(call.call.code()) for call in (*slow, *others)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        given_way = [call for call in (*slow, *others) if call.call.done()]
        assert len(given_way) == 1
        assert await given_way[0].failure() == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        for call in (*slow, *others):
            call.end()


async def test_a_full_queue_refuses_images_before_they_are_read(
    start: Start, engine: FakeEngine
) -> None:
    running = await start(max_items=64, max_queue=64)
    engine.gate.clear()
    embedding = asyncio.create_task(running.ask(running.client.embed, [crop(n) for n in range(64)]))
    await engine.has_entered()
    async with channel(running) as wire:
        one = Slow(wire)
        one.send(embedding_pb2.EmbedRequest(images=[crop(1)]).SerializeToString())
        while await running.metric("resight_queue_depth") < 65:  # in a place for few images
            await asyncio.sleep(0.01)
        for method in (EMBED, ENROLL):
            assert await Slow(wire, method).failure() == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        search = Slow(wire, SEARCH)
        search.send(b"\xff")
        assert await search.failure() == ("INVALID_ARGUMENT", "BAD_MESSAGE"), "it may need no model"
        engine.gate.set()
        assert len(await embedding) == 64
        assert await one.call
        again = Slow(wire)
        again.send(embedding_pb2.EmbedRequest(images=[b"x"]).SerializeToString())
        assert await again.call


async def test_a_client_that_leaves_gives_its_place_to_another(start: Start) -> None:
    running = await start(
        max_message_bytes=4 * MIB, max_image_bytes=MIB, max_requests_bytes=8 * MIB
    )
    request = embedding_pb2.EmbedRequest(images=[b"x"]).SerializeToString()
    async with channel(running) as one, channel(running) as two, channel(running) as three:
        slow = [Slow(wire) for wire in (one, two)]
        await until_running(running, 2)
        waiting = Slow(three)
        waiting.send(request)
        await until_running(running, 3)
        slow[0].call.cancel()
        assert embedding_pb2.EmbedResponse.FromString(await waiting.call).results


async def test_a_deadline_ends_a_call_that_is_not_sent(shared_server: Running) -> None:
    async with channel(shared_server) as wire:
        call = wire.unary_unary(EMBED)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await wire.stream_unary(EMBED)(_never(), timeout=0.05)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await call(embedding_pb2.EmbedRequest(images=[b"x"]).SerializeToString())
    await until_running(shared_server, 0)


async def _never() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


async def test_a_request_above_the_limit_is_refused_by_grpc(shared_server: Running) -> None:
    async with channel(shared_server) as wire:
        with pytest.raises(grpc.aio.AioRpcError, match="larger than max") as error:
            await wire.unary_unary(EMBED)(bytes(17 * MIB))
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await until_running(shared_server, 0)


async def test_health_and_reflection_are_read_as_others_are(shared_server: Running) -> None:
    async with channel(shared_server) as wire:
        check = health_pb2.HealthCheckRequest()
        health = health_pb2_grpc.HealthStub(wire)
        serving = health_pb2.HealthCheckResponse.SERVING
        assert (await health.Check(check)).status == serving
        watch = health.Watch(check)
        assert (await watch.read()).status == serving
        watch.cancel()
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="resight.v1.Site"),
        ]
        stub = reflection_pb2_grpc.ServerReflectionStub(wire)
        answers = [answer async for answer in stub.ServerReflectionInfo(iter(asked))]
        assert answers[0].list_services_response.service
        assert answers[1].file_descriptor_response.file_descriptor_proto
