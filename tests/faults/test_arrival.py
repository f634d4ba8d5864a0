"""Clients that send more, and more at a time, than the server can hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from service.client import ResightClient
from service.rpc.pb.resight.v1 import embedding_pb2
from tests.support.server_process import ServerProcess, memory

MIB = 1024 * 1024
CALLS = 60


def test_large_requests_take_no_more_memory_than_their_limit(
    start: Callable[..., ServerProcess],
) -> None:
    limit = 16 * MIB
    server = start(max_message_bytes=4 * MIB, max_image_bytes=MIB, max_requests_bytes=limit)
    body = embedding_pb2.EmbedRequest(images=[bytes(4 * MIB - 100)]).SerializeToString()
    before = memory(server, "VmHWM")
    channel: Any = grpc.insecure_channel(server.address)
    with channel, ResightClient(server.address) as other:
        embed = channel.unary_unary("/resight.v1.EmbeddingService/Embed")
        calls = [embed.future(body) for _ in range(CALLS)]
        assert list(other.sites()) == []
        codes = {call.code() for call in calls}
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert grpc.StatusCode.OK in codes
    assert memory(server, "VmHWM") - before < 4 * limit < CALLS * len(body) / 3
