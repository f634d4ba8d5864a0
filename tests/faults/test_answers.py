"""Searches that find more than memory holds, and clients that do not read what they asked for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from service.client import CallFailedError, ResightClient
from service.rpc.pb.resight.v1 import gallery_pb2
from tests.support.new_sightings import sightings
from tests.support.server_process import ServerProcess, memory
from tests.support.waiting import eventually

MIB = 1024 * 1024
ATTRIBUTES = {f"key-{n:060d}": "\U0001f600" * 1024 for n in range(32)}
"""The largest: 133 kB on the wire."""


@pytest.fixture
def server(start: Callable[..., ServerProcess]) -> ServerProcess:
    """With a site of 40 sightings that have the largest attributes."""
    server = start(max_answers_bytes=32 * MIB)
    with server.client() as client:
        client.create_site("lobby")
        assert len(list(client.enroll("lobby", sightings(40, attributes=ATTRIBUTES)))) == 40
    return server


def test_the_largest_search_is_refused_before_its_answer_is_made(server: ServerProcess) -> None:
    before = memory(server)
    with server.client() as client:
        queries = [f"s{n % 40:02d}" for n in range(100)]
        with pytest.raises(CallFailedError) as error:
            client.search_many("lobby", queries, limit=39)
        assert error.value.reason == "BAD_LIMIT"
        answers = client.search_many("lobby", queries, limit=39, attributes=False)
        assert [len(answer.matches) for answer in answers] == [39] * 100
    assert memory(server, "VmHWM") - before < 150 * MIB, "the whole answer has 520 MB"


def test_answers_that_nobody_reads_take_no_more_than_their_limit(server: ServerProcess) -> None:
    query = gallery_pb2.SearchQuery(sighting="sites/lobby/sightings/s00")
    request = gallery_pb2.SearchSightingsRequest(
        parent="sites/lobby", queries=[query], limit=39
    ).SerializeToString()
    before = memory(server)
    with ExitStack() as stack, ResightClient(server.address) as other:
        calls: list[Any] = []
        for _ in range(20):
            options = [("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)]
            channel: Any = stack.enter_context(grpc.insecure_channel(server.address, options))
            method = "/resight.v1.GalleryService/SearchSightings"
            calls.append(channel.unary_stream(method)(request))
        eventually(lambda: sum(not call.done() for call in calls) <= 6)  # the others are refused
        assert [site.id for site in other.sites()] == ["lobby"]
        eventually(lambda: "resight_rpc_in_flight 6.0" in server.page("/metrics"))
        assert memory(server, "VmHWM") - before < 4 * 32 * MIB, "all answers have 100 MB, twice"
