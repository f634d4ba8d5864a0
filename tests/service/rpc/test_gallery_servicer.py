"""The RPCs over a real channel, in front of a fake engine."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from service.client import CallFailedError, SearchAnswer
from service.errors import CallError, ModelMismatchError, ShuttingDownError
from service.rpc.gallery_servicer import GalleryServicer
from service.rpc.pb.resight.v1 import (
    embedding_pb2,
    embedding_pb2_grpc,
    gallery_pb2,
    gallery_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    site_pb2,
    site_pb2_grpc,
)
from service.types import Enrolled, NewSighting, SightingFilter
from tests.support.fake_engine import FakeEngine
from tests.support.tiny_model import crop, embed_files

Start = Callable[..., Awaitable[Any]]
T0 = datetime(2026, 5, 1, 12, tzinfo=UTC)


class Raw:
    """The generated stubs, for calls that the client would never make."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self.sites = site_pb2_grpc.SiteServiceStub(self.channel)
        self.gallery = gallery_pb2_grpc.GalleryServiceStub(self.channel)
        self.embedding = embedding_pb2_grpc.EmbeddingServiceStub(self.channel)
        self.models = model_pb2_grpc.ModelServiceStub(self.channel)


@pytest.fixture
async def running(start: Start) -> Any:
    return await start()


@pytest.fixture
def raw(running: Any) -> Iterator[Raw]:
    raw = Raw(running.ready.grpc_address)
    yield raw
    raw.channel.close()


async def refusal(method: Callable[..., Any], request: Any) -> tuple[str, str]:
    """(code, reason) that a call is refused with."""

    def call() -> tuple[str, str]:
        with pytest.raises(grpc.RpcError) as error:
            _to_the_end(method(request, timeout=10))
        status = rpc_status.from_call(error.value)  # type: ignore[arg-type]
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        assert info.domain == "resight"
        assert status.message
        return error.value.code().name, info.reason

    return await asyncio.to_thread(call)


def _to_the_end(answer: Any) -> None:
    if hasattr(answer, "__next__"):
        list(answer)


def sightings(count: int, **fields: Any) -> list[NewSighting]:
    return [
        NewSighting(
            image=crop(n),
            camera=f"c{n % 3}",
            id=f"s{n:02d}",
            time=T0 + timedelta(seconds=n),
            **fields,
        )
        for n in range(count)
    ]


async def test_enroll_and_search_give_the_true_answer(running: Any) -> None:
    client = running.client
    await running.ask(client.create_site, "lobby")
    results = await running.ask(client.enroll, "lobby", sightings(12))
    assert all(isinstance(result, Enrolled) for result in results)
    answer = await running.ask(
        client.search,
        "lobby",
        crop(3),
        limit=4,
        wanted=SightingFilter(exclude_cameras=("c0",), end=T0 + timedelta(seconds=11)),
    )
    scores = embed_files([crop(n) for n in range(12)]) @ embed_files([crop(3)])[0]
    allowed = [n for n in range(11) if n % 3 != 0]
    best = sorted(allowed, key=lambda n: -scores[n])[:4]
    assert [match.sighting.id for match in answer.matches] == [f"s{n:02d}" for n in best]
    np.testing.assert_allclose([m.score for m in answer.matches], scores[best], atol=1e-6)
    assert answer.matches[0].sighting == results[best[0]].sighting
    assert answer.model == "fake@1"


async def test_many_queries_in_one_call(running: Any) -> None:
    client = running.client
    await running.ask(client.create_site, "lobby")
    await running.ask(client.enroll, "lobby", sightings(5))
    answers = await running.ask(
        client.search_many, "lobby", [crop(2), b"no image", "s04", "nobody", "not/an/id"], limit=1
    )
    assert answers[0].matches[0].sighting.id == "s02"
    assert isinstance(answers[2], SearchAnswer)
    assert answers[2].matches[0].sighting.id != "s04"
    assert [(a.code, a.reason) for a in answers if isinstance(a, CallFailedError)] == [
        ("INVALID_ARGUMENT", "BAD_IMAGE"),
        ("NOT_FOUND", "SIGHTING_NOT_FOUND"),
        ("INVALID_ARGUMENT", "BAD_NAME"),
    ]


async def test_bad_items_beside_good_ones(running: Any, raw: Raw) -> None:
    await running.ask(running.client.create_site, "lobby")
    item, sighting = gallery_pb2.EnrollItem, gallery_pb2.Sighting
    request = gallery_pb2.EnrollSightingsRequest(
        parent="sites/lobby",
        items=[
            item(sighting_id="good", sighting=sighting(image=crop(1), camera="c1")),
            item(sighting=sighting(image=b"x", camera="c1")),
            item(sighting_id="a/b", sighting=sighting(image=crop(2), camera="c1")),
            item(sighting=sighting(image=crop(2))),
            item(sighting=sighting(image=crop(2), camera="c1", time=Timestamp(seconds=10**15))),
            item(sighting=sighting(image=crop(2), camera="c1", time=Timestamp(nanos=-1))),
            item(sighting_id="good", sighting=sighting(image=crop(2), camera="c1")),
            item(sighting=sighting(image=crop(3), camera="c1")),
            item(),
        ],
    )
    answer = await asyncio.to_thread(raw.gallery.EnrollSightings, request)
    reasons = []
    for result in answer.results:
        info = error_details_pb2.ErrorInfo()
        if result.HasField("error"):
            assert result.error.details[0].Unpack(info)
            assert not result.HasField("sighting")
        reasons.append(info.reason)
    assert reasons == [
        "",
        "BAD_IMAGE",
        "BAD_NAME",
        "BAD_SIGHTING",
        "BAD_SIGHTING",
        "BAD_SIGHTING",
        "DUPLICATE_ID",
        "",
        "BAD_SIGHTING",
    ]
    assert answer.results[0].sighting.name == "sites/lobby/sightings/good"
    assert (await running.ask(running.client.site, "lobby")).sightings == 2


async def test_a_sighting_of_another_site_is_no_query(running: Any, raw: Raw) -> None:
    for site in ("lobby", "yard"):
        await running.ask(running.client.create_site, site)
        await running.ask(running.client.enroll, site, sightings(2))
    request = gallery_pb2.SearchSightingsRequest(
        parent="sites/lobby",
        queries=[
            gallery_pb2.SearchQuery(sighting="sites/yard/sightings/s00"),
            gallery_pb2.SearchQuery(),
        ],
    )
    answer = await asyncio.to_thread(raw.gallery.SearchSightings, request)
    messages = [result.error.message for result in answer.results]
    assert "is not of site lobby" in messages[0]
    assert "neither an image nor a sighting" in messages[1]
    assert not any(result.matches for result in answer.results)


async def test_embed(running: Any) -> None:
    files = [crop(1), b"", crop(2)]
    first, bad, second = await running.ask(running.client.embed, files)
    np.testing.assert_allclose(
        np.stack([first, second]), embed_files([crop(1), crop(2)]), atol=1e-6
    )
    assert bad.reason == "BAD_IMAGE"


async def test_the_crop_comes_back_byte_for_byte(running: Any) -> None:
    client = running.client
    await running.ask(client.create_site, "lobby")
    await running.ask(client.enroll, "lobby", sightings(1))
    assert await running.ask(client.crop, "lobby", "s00") == crop(0)


async def test_pages(running: Any, raw: Raw) -> None:
    client = running.client
    for site in ("b", "a", "c"):
        await running.ask(client.create_site, site)
    await running.ask(client.enroll, "a", sightings(7))
    request = gallery_pb2.ListSightingsRequest(parent="sites/a", page_size=3)
    names: list[str] = []
    while True:
        page = await asyncio.to_thread(raw.gallery.ListSightings, request)
        names += [sighting.name.rsplit("/", 1)[1] for sighting in page.sightings]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert names == [f"s{n:02d}" for n in range(7)]
    first = await asyncio.to_thread(raw.sites.ListSites, site_pb2.ListSitesRequest(page_size=2))
    rest = await asyncio.to_thread(
        raw.sites.ListSites, site_pb2.ListSitesRequest(page_token=first.next_page_token)
    )
    assert [site.name for site in (*first.sites, *rest.sites)] == ["sites/a", "sites/b", "sites/c"]
    request.filter.cameras.append("c1")
    assert await refusal(raw.gallery.ListSightings, request) == (
        "INVALID_ARGUMENT",
        "BAD_PAGE_TOKEN",
    )
    persons = SightingFilter(cameras=("c1",))
    found = await running.ask(client.sightings, "a", persons)
    assert [sighting.id for sighting in found] == ["s01", "s04"]


async def test_a_repeated_call_gives_the_same_answer(
    running: Any, raw: Raw, engine: FakeEngine
) -> None:
    await running.ask(running.client.create_site, "lobby")
    request = gallery_pb2.EnrollSightingsRequest(
        parent="sites/lobby",
        request_id="r-1",
        items=[
            gallery_pb2.EnrollItem(sighting=gallery_pb2.Sighting(image=crop(1), camera="c1")),
            gallery_pb2.EnrollItem(sighting=gallery_pb2.Sighting(image=b"x", camera="c1")),
        ],
    )
    first = await asyncio.to_thread(raw.gallery.EnrollSightings, request)
    runs = len(engine.batches)
    again = await asyncio.to_thread(raw.gallery.EnrollSightings, request)
    assert first == again
    assert len(engine.batches) == runs, "nothing has to be embedded to answer again"
    assert (await running.ask(running.client.site, "lobby")).sightings == 1
    request.items[0].sighting.camera = "c2"
    assert await refusal(raw.gallery.EnrollSightings, request) == (
        "INVALID_ARGUMENT",
        "REQUEST_ID_REUSED",
    )


async def test_models(running: Any, raw: Raw) -> None:
    (model,) = await running.ask(running.client.models)
    assert model == running.ready.model
    got = await asyncio.to_thread(
        raw.models.GetModel, model_pb2.GetModelRequest(name="models/fake@1")
    )
    assert got.fingerprint == model.fingerprint


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
    from service.errors import call_errors

    running = await start(max_items=64)
    await running.ask(running.client.create_site, "lobby")
    await running.ask(running.client.enroll, "lobby", sightings(1))
    raw = Raw(running.ready.grpc_address)
    for service, method, request, reason in WRONG:
        code = call_errors()[reason].code.name
        refused = await refusal(getattr(getattr(raw, service), method), request)
        assert refused == (code, reason), (method, request)
    raw.channel.close()


async def test_a_full_queue_is_said_with_the_time_to_come_back(
    start: Start, engine: FakeEngine
) -> None:
    running = await start(max_queue=64, max_items=64)
    engine.gate.clear()
    waiting = asyncio.create_task(running.ask(running.client.embed, [crop(1)] * 63))
    await engine.has_entered()
    raw = Raw(running.ready.grpc_address)

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
    assert len(await waiting) == 63
    raw.channel.close()


async def test_too_many_calls_at_a_time_are_refused(start: Start, engine: FakeEngine) -> None:
    running = await start(max_concurrent_calls=1)
    engine.gate.clear()
    waiting = asyncio.create_task(running.ask(running.client.embed, [crop(1)]))
    await engine.has_entered()
    raw = Raw(running.ready.grpc_address)
    assert await refusal(raw.models.ListModels, model_pb2.ListModelsRequest()) == (
        "RESOURCE_EXHAUSTED",
        "QUEUE_FULL",
    )
    engine.gate.set()
    await waiting
    raw.channel.close()


async def test_a_call_whose_deadline_is_over_frees_its_place(
    start: Start, engine: FakeEngine
) -> None:
    running = await start(max_queue=64, max_items=64, max_batch=64)
    raw = Raw(running.ready.grpc_address)
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
    raw = Raw(running.ready.grpc_address)
    request = site_pb2.CreateSiteRequest(site_id="lobby")
    assert await refusal(raw.sites.CreateSite, request) == ("INTERNAL", "INTERNAL")
    with pytest.raises(CallFailedError) as error:
        await running.ask(running.client.create_site, "lobby")
    assert "secret" not in str(error.value)
    assert "secret inside" in caplog.text
    assert await running.ask(running.client.sites) == []
    raw.channel.close()


async def test_calls_are_measured_by_method_and_code(running: Any) -> None:
    await running.ask(running.client.create_site, "lobby")
    with pytest.raises(CallFailedError):
        await running.ask(running.client.site, "none")
    name = "resight_rpc_duration_seconds_count"
    assert await running.metric(name, method="SiteService/CreateSite", code="OK") == 1
    assert await running.metric(name, method="SiteService/GetSite", code="NOT_FOUND") == 1
    assert await running.metric("resight_rpc_in_flight") == 0


async def test_a_damaged_row_fails_the_call(running: Any, raw: Raw, tmp_path: Path) -> None:
    await running.ask(running.client.create_site, "lobby")
    await running.ask(running.client.enroll, "lobby", sightings(2))
    with closing(sqlite3.connect(tmp_path / "data" / "resight.db")) as connection, connection:
        connection.execute("UPDATE sightings SET attributes = '{' WHERE sighting = 's01'")
    damaged = ("INTERNAL", "ROW_DAMAGED")
    listed = gallery_pb2.ListSightingsRequest(parent="sites/lobby")
    assert await refusal(raw.gallery.ListSightings, listed) == damaged
    query = gallery_pb2.SearchQuery(image=crop(0))
    search = gallery_pb2.SearchSightingsRequest(parent="sites/lobby", queries=[query])
    assert await refusal(raw.gallery.SearchSightings, search) == damaged
    one = gallery_pb2.GetSightingRequest(name="sites/lobby/sightings/s01")
    assert await refusal(raw.gallery.GetSighting, one) == damaged


async def test_the_database_refuses(running: Any, raw: Raw, tmp_path: Path) -> None:
    await running.ask(running.client.create_site, "lobby")
    with closing(sqlite3.connect(tmp_path / "data" / "resight.db")) as connection:
        connection.execute("DROP TABLE crops")
    request = gallery_pb2.GetSightingRequest(name="sites/lobby/sightings/a")
    assert await refusal(raw.gallery.GetSighting, request) == ("INTERNAL", "STORE_FAILED")


@pytest.mark.parametrize(
    "refusal", [ModelMismatchError("rolled over"), ShuttingDownError("released")]
)
async def test_work_that_a_rollover_overtakes_is_done_again_with_the_new_model(
    refusal: CallError,
) -> None:
    old, new = SimpleNamespace(info="old"), SimpleNamespace(info="new")
    uses = [old]

    class Site:
        """A site whose model a test changes."""

        async def load(self, site: str) -> SimpleNamespace:
            return uses[-1]

    async def overtaken(model: object) -> str:
        if model is old:
            uses.append(new)
            raise refusal
        return "done"

    async def refused(model: object) -> str:
        raise refusal

    servicer = GalleryServicer(None, Site(), max_items=1, max_limit=1)  # type: ignore[arg-type]
    assert await servicer._with_model_of("lobby", overtaken) == ("done", new)
    with pytest.raises(type(refusal)):  # no other model: another attempt would fail, too
        await servicer._with_model_of("lobby", refused)
