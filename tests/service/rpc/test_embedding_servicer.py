"""The RPCs of embeddings over a real channel, in front of a fake engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from service.rpc.answers import MAX_ERROR_BYTES
from service.rpc.pb.resight.v1 import embedding_pb2, embedding_pb2_grpc
from tests.support.fake_engine import FakeEngine
from tests.support.raw_client import RawClient
from tests.support.running_server import Running
from tests.support.tiny_model import DIMENSION, crop, embed_files

pytestmark = pytest.mark.asyncio(loop_scope="session")

Start = Callable[..., Awaitable[Any]]


async def test_embed(shared_server: Running) -> None:
    files = [crop(1), b"", crop(2)]
    first, bad, second = await shared_server.ask(shared_server.client.embed, files)
    np.testing.assert_allclose(
        np.stack([first, second]), embed_files([crop(1), crop(2)]), atol=1e-6
    )
    assert bad.reason == "BAD_IMAGE"


async def test_a_call_is_refused_whose_answer_could_be_too_large(start: Start) -> None:
    running = await start(max_items=1024, max_answer_bytes=2**20)
    fit = 2**20 // (4 * DIMENSION + MAX_ERROR_BYTES)
    async with grpc.aio.insecure_channel(running.ready.grpc_address) as channel:
        embed = embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed
        answer = await embed(embedding_pb2.EmbedRequest(images=[b""] * fit))
        assert len(answer.results) == fit
        with pytest.raises(grpc.aio.AioRpcError, match="send fewer images"):
            await embed(embedding_pb2.EmbedRequest(images=[b""] * (fit + 1)))


async def test_a_full_queue_is_reported_with_the_time_to_retry(
    start: Start, engine: FakeEngine
) -> None:
    running = await start(max_queue=64, max_items=64)
    engine.gate.clear()
    waiting = asyncio.create_task(running.ask(running.client.embed, [crop(1)] * 64))
    await engine.has_entered()
    raw = RawClient(running.ready.grpc_address)

    def call() -> Any:
        with pytest.raises(grpc.RpcError) as error:
            raw.embedding.Embed(embedding_pb2.EmbedRequest(images=[crop(1)] * 2), timeout=10)
        return rpc_status.from_call(error.value)  # type: ignore[arg-type]

    status = await asyncio.to_thread(call)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    assert info.reason == "QUEUE_FULL"
    assert retry.retry_delay.ToNanoseconds() > 0
    engine.gate.set()
    assert len(await waiting) == 64
    raw.channel.close()


async def test_a_call_whose_deadline_is_over_frees_its_place(
    start: Start, engine: FakeEngine
) -> None:
    running = await start(max_queue=64, max_items=64, max_batch=64)
    raw = RawClient(running.ready.grpc_address)
    engine.gate.clear()
    waiting = asyncio.create_task(running.ask(running.client.embed, [crop(1)]))
    await engine.has_entered()

    def late() -> str:
        with pytest.raises(grpc.RpcError) as error:
            raw.embedding.Embed(embedding_pb2.EmbedRequest(images=[crop(9)] * 63), timeout=0.2)
        return str(error.value.code().name)

    assert await asyncio.to_thread(late) == "DEADLINE_EXCEEDED"
    async with asyncio.timeout(10):
        while await running.metric("resight_queue_depth") > 1:
            await asyncio.sleep(0.01)
    others = [crop(n) for n in range(2, 65)]
    fits = asyncio.create_task(running.ask(running.client.embed, others))
    engine.gate.set()
    np.testing.assert_allclose(
        np.stack([*await waiting, *await fits]),
        embed_files([crop(1), *others]),
        atol=1e-6,
    )
    assert sum(engine.batches) == 64, "an image ran although its caller had gone"
    assert (
        await running.metric(
            "resight_rpc_duration_seconds_count", method="EmbeddingService/Embed", code="CANCELLED"
        )
        == 1
    )
    raw.channel.close()
