"""What every call passes: limits, errors, metrics."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from service.client import CallFailedError
from service.errors import BadLimitError, call_errors
from service.gallery.gallery import Gallery
from service.rpc.pb.resight.v1 import embedding_pb2, gallery_pb2, model_pb2, site_pb2
from service.types import NewSighting
from tests.support.fake_engine import FakeEngine
from tests.support.new_sightings import sightings
from tests.support.raw_client import RawClient, refusal
from tests.support.running_server import Running
from tests.support.tiny_model import crop

pytestmark = pytest.mark.asyncio(loop_scope="session")

Start = Callable[..., Awaitable[Any]]


def _enroll(count: int, parent: str = "sites/lobby", **fields: Any) -> Any:
    item = gallery_pb2.EnrollItem(sighting=gallery_pb2.Sighting(image=b"x", camera="c"))
    return gallery_pb2.EnrollSightingsRequest(parent=parent, items=[item] * count, **fields)


def _search(parent: str = "sites/lobby", queries: int = 1, **fields: Any) -> Any:
    query = gallery_pb2.SearchQuery(image=b"x")
    return gallery_pb2.SearchSightingsRequest(parent=parent, queries=[query] * queries, **fields)


WRONG = [
    ("sites", "CreateSite", site_pb2.CreateSiteRequest(site_id="a/b"), "BAD_NAME"),
    ("sites", "CreateSite", site_pb2.CreateSiteRequest(site_id="lobby"), "SITE_EXISTS"),
    ("sites", "GetSite", site_pb2.GetSiteRequest(name="lobby"), "BAD_NAME"),
    ("sites", "GetSite", site_pb2.GetSiteRequest(name="sites/none"), "SITE_NOT_FOUND"),
    ("sites", "ListSites", site_pb2.ListSitesRequest(page_token="?"), "BAD_PAGE_TOKEN"),  # noqa: S106
    ("sites", "ListSites", site_pb2.ListSitesRequest(page_size=-1), "BAD_LIMIT"),
    ("sites", "DeleteSite", site_pb2.DeleteSiteRequest(name="sites/none"), "SITE_NOT_FOUND"),
    ("sites", "DeleteSite", site_pb2.DeleteSiteRequest(name="sites/lobby"), "SITE_NOT_EMPTY"),
    ("sites", "ReembedSite", site_pb2.ReembedSiteRequest(name="sites/none"), "SITE_NOT_FOUND"),
    ("gallery", "EnrollSightings", _enroll(0), "TOO_MANY_ITEMS"),
    ("gallery", "EnrollSightings", _enroll(65), "TOO_MANY_ITEMS"),
    ("gallery", "EnrollSightings", _enroll(1, "sites/none"), "SITE_NOT_FOUND"),
    ("gallery", "EnrollSightings", _enroll(1, "sites/../x"), "BAD_NAME"),
    ("gallery", "EnrollSightings", _enroll(1, request_id="a b"), "BAD_NAME"),
    ("gallery", "SearchSightings", _search(queries=0), "TOO_MANY_ITEMS"),
    ("gallery", "SearchSightings", _search(limit=-1), "BAD_LIMIT"),
    ("gallery", "SearchSightings", _search(limit=1001), "BAD_LIMIT"),
    ("gallery", "SearchSightings", _search("sites/none"), "SITE_NOT_FOUND"),
    (
        "gallery",
        "SearchSightings",
        _search(
            filter=gallery_pb2.SightingFilter(
                start_time=Timestamp(seconds=2), end_time=Timestamp(seconds=1)
            )
        ),
        "BAD_FILTER",
    ),
    (
        "gallery",
        "GetSighting",
        gallery_pb2.GetSightingRequest(name="sites/lobby/sightings/none"),
        "SIGHTING_NOT_FOUND",
    ),
    ("gallery", "GetSighting", gallery_pb2.GetSightingRequest(name="sites/lobby"), "BAD_NAME"),
    (
        "gallery",
        "ListSightings",
        gallery_pb2.ListSightingsRequest(parent="sites/none"),
        "SITE_NOT_FOUND",
    ),
    (
        "gallery",
        "DeleteSighting",
        gallery_pb2.DeleteSightingRequest(name="sites/lobby/sightings/none"),
        "SIGHTING_NOT_FOUND",
    ),
    (
        "gallery",
        "SearchSightings",
        gallery_pb2.SearchSightingsRequest(
            parent="sites/lobby", queries=[gallery_pb2.SearchQuery(sighting="x")] * 11, limit=910
        ),
        "BAD_LIMIT",
    ),
    ("embedding", "Embed", embedding_pb2.EmbedRequest(), "TOO_MANY_ITEMS"),
    ("embedding", "Embed", embedding_pb2.EmbedRequest(images=[b"x"] * 65), "TOO_MANY_ITEMS"),
    ("models", "GetModel", model_pb2.GetModelRequest(name="models/x"), "BAD_NAME"),
    ("models", "GetModel", model_pb2.GetModelRequest(name="models/x@1"), "MODEL_NOT_FOUND"),
    ("models", "ListModels", model_pb2.ListModelsRequest(page_token="!"), "BAD_PAGE_TOKEN"),  # noqa: S106
]


async def test_wrong_calls_are_refused_with_code_and_reason(start: Start) -> None:
    running = await start(max_items=64)
    await running.ask(running.client.create_site, "lobby")
    await running.ask(running.client.enroll, "lobby", sightings(1))
    raw = RawClient(running.ready.grpc_address)
    for service, method, request, reason in WRONG:
        code = call_errors()[reason].code.name
        refused = await refusal(getattr(getattr(raw, service), method), request)
        assert refused == (code, reason), (method, request)
    raw.channel.close()


async def test_too_many_calls_at_a_time_are_refused(start: Start, engine: FakeEngine) -> None:
    running = await start(max_concurrent_calls=1)
    engine.gate.clear()
    waiting = asyncio.create_task(running.ask(running.client.embed, [crop(1)]))
    await engine.has_entered()
    raw = RawClient(running.ready.grpc_address)
    assert await refusal(raw.models.ListModels, model_pb2.ListModelsRequest()) == (
        "RESOURCE_EXHAUSTED",
        "QUEUE_FULL",
    )
    engine.gate.set()
    await waiting
    raw.channel.close()


async def test_a_fault_of_the_server_tells_nothing_of_its_inside(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    faults: list[Exception] = []

    def clock() -> datetime:
        if faults:
            raise faults[0]
        return datetime(2026, 1, 1, tzinfo=UTC)

    running = await start(clock=clock)
    faults.append(ZeroDivisionError("secret inside"))
    raw = RawClient(running.ready.grpc_address)
    request = site_pb2.CreateSiteRequest(site_id="lobby")
    assert await refusal(raw.sites.CreateSite, request) == ("INTERNAL", "INTERNAL")
    with pytest.raises(CallFailedError) as error:
        await running.ask(running.client.create_site, "lobby")
    assert "secret" not in str(error.value)
    assert "secret inside" in caplog.text
    assert await running.ask(running.client.sites) == []
    raw.channel.close()


async def test_calls_are_measured_by_method_and_code(start: Start) -> None:
    running = await start()
    await running.ask(running.client.create_site, "lobby")
    with pytest.raises(CallFailedError):
        await running.ask(running.client.site, "none")
    name = "resight_rpc_duration_seconds_count"
    assert await running.metric(name, method="SiteService/CreateSite", code="OK") == 1
    assert await running.metric(name, method="SiteService/GetSite", code="NOT_FOUND") == 1
    await until_running(running, 0)


async def until_running(running: Running, calls: int) -> None:
    async with asyncio.timeout(10):
        while await running.metric("resight_rpc_in_flight") != calls:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def unread_answer(running: Running) -> AsyncIterator[Any]:
    """A call whose answer, larger than what gRPC reads ahead, nobody reads."""
    request = gallery_pb2.GetSightingRequest(
        name="sites/lobby/sightings/large", view=gallery_pb2.SIGHTING_VIEW_FULL
    )
    channel: Any = grpc.aio.insecure_channel(
        running.ready.grpc_address,
        options=[("grpc.http2.bdp_probe", 0), ("grpc.max_receive_message_length", -1)],
    )
    async with channel:
        method = "/resight.v1.GalleryService/GetSighting"
        yield channel.unary_stream(method)(request.SerializeToString())


async def enroll_a_large_crop(running: Running) -> bytes:
    image = crop(1, height=1000, width=1000, suffix=".bmp")
    await running.ask(running.client.create_site, "lobby")
    large = NewSighting(image=image, camera="c1", id="large")
    await running.ask(running.client.enroll, "lobby", [large])
    return image


async def test_a_call_counts_until_its_answer_is_read(start: Start) -> None:
    running = await start()
    image = await enroll_a_large_crop(running)
    async with unread_answer(running) as call, asyncio.timeout(10):
        made = {"method": "GalleryService/GetSighting", "code": "OK"}
        while not await running.metric("resight_rpc_duration_seconds_count", **made):
            await asyncio.sleep(0.01)
        await until_running(running, 1)
        assert gallery_pb2.Sighting.FromString(await call.read()).image == image
        await until_running(running, 0)


async def test_a_client_that_does_not_read_its_answer_is_ended(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    first = await start()
    await enroll_a_large_crop(first)
    await first.stop()
    running = await start(max_transfer_s=0.5)
    async with unread_answer(running) as call, asyncio.timeout(10):
        await call.initial_metadata()
        await until_running(running, 1)
        await until_running(running, 0)
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
    assert "has not read an answer within 0.5 s" in caplog.text
    assert len(await running.ask(running.client.sites)) == 1


async def test_a_refused_call_leaves_nothing_of_its_work_behind(
    shared_server: Running, raw: RawClient, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """grpc keeps the error of a call until cycles are collected."""

    class Work:
        """Stands for the matches of a search."""

    left: list[weakref.ref[Work]] = []

    async def refuse(self: Gallery, site: str) -> None:
        work = Work()
        left.append(weakref.ref(work))
        try:
            raise TimeoutError
        except TimeoutError as error:
            raise BadLimitError("too much") from error

    monkeypatch.setattr(Gallery, "site", refuse)
    gc.collect()
    gc.disable()
    try:
        request = site_pb2.GetSiteRequest(name=f"sites/{site}")
        assert await refusal(raw.sites.GetSite, request) == ("INVALID_ARGUMENT", "BAD_LIMIT")
        await until_running(shared_server, 0)
        assert [ref() for ref in left] == [None]
    finally:
        gc.enable()
