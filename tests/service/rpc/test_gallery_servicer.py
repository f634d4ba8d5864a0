"""The RPCs of galleries over a real channel, in front of a fake engine."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unicodedata import normalize

import grpc
import numpy as np
import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2

from service.client import CallFailedError, SearchAnswer
from service.errors import ModelMismatchError
from service.rpc.answers import Answers
from service.rpc.budget import Reservation
from service.rpc.gallery_servicer import GalleryServicer
from service.rpc.pb.resight.v1 import gallery_pb2
from service.store.store import Store
from service.types import (
    CameraSummary,
    Enrolled,
    NewSighting,
    Sighting,
    SightingFilter,
    UnknownValues,
)
from tests.support.fake_call import Call
from tests.support.fake_engine import FakeEngine
from tests.support.new_sightings import T0, sightings
from tests.support.raw_client import RawClient, reason_of, refusal
from tests.support.running_server import Running
from tests.support.tiny_model import crop, embed_files

pytestmark = pytest.mark.asyncio(loop_scope="session")

Start = Callable[..., Awaitable[Any]]


async def test_enroll_and_search_give_the_true_answer(shared_server: Running, site: str) -> None:
    client = shared_server.client
    results = await shared_server.ask(client.enroll, site, sightings(12))
    assert all(isinstance(result, Enrolled) for result in results)
    answer = await shared_server.ask(
        client.search,
        site,
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


async def test_many_queries_in_one_call(shared_server: Running, site: str) -> None:
    client = shared_server.client
    await shared_server.ask(client.enroll, site, sightings(5))
    answers = await shared_server.ask(
        client.search_many, site, [crop(2), b"no image", "s04", "nobody", "not/an/id"], limit=1
    )
    assert answers[0].matches[0].sighting.id == "s02"
    assert isinstance(answers[2], SearchAnswer)
    assert answers[2].matches[0].sighting.id != "s04"
    assert [(a.code, a.reason) for a in answers if isinstance(a, CallFailedError)] == [
        ("INVALID_ARGUMENT", "BAD_IMAGE"),
        ("NOT_FOUND", "SIGHTING_NOT_FOUND"),
        ("INVALID_ARGUMENT", "BAD_NAME"),
    ]


async def test_bad_items_beside_good_ones(
    shared_server: Running, raw: RawClient, site: str
) -> None:
    item, sighting = gallery_pb2.EnrollItem, gallery_pb2.Sighting
    request = gallery_pb2.EnrollSightingsRequest(
        parent=f"sites/{site}",
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
    assert answer.results[0].sighting.name == f"sites/{site}/sightings/good"
    assert (await shared_server.ask(shared_server.client.site, site)).sightings == 2


async def test_a_sighting_of_another_site_is_not_a_query(
    shared_server: Running, raw: RawClient, site: str
) -> None:
    client, other = shared_server.client, f"{site}-b"
    await shared_server.ask(client.create_site, other)
    for each in (site, other):
        await shared_server.ask(client.enroll, each, sightings(2))
    request = gallery_pb2.SearchSightingsRequest(
        parent=f"sites/{site}",
        queries=[
            gallery_pb2.SearchQuery(sighting=f"sites/{other}/sightings/s00"),
            gallery_pb2.SearchQuery(),
        ],
    )
    answer = await asyncio.to_thread(raw.gallery.SearchSightings, request)
    messages = [result.error.message for result in answer.results]
    assert f"is not of site {site}" in messages[0]
    assert "neither an image nor a sighting" in messages[1]
    assert not any(result.matches for result in answer.results)


async def test_the_crop_comes_back_byte_for_byte(shared_server: Running, site: str) -> None:
    client = shared_server.client
    await shared_server.ask(client.enroll, site, sightings(1))
    assert await shared_server.ask(client.crop, site, "s00") == crop(0)


async def test_pages(shared_server: Running, raw: RawClient, site: str) -> None:
    client = shared_server.client
    await shared_server.ask(client.enroll, site, sightings(7))
    request = gallery_pb2.ListSightingsRequest(parent=f"sites/{site}", page_size=3)
    names: list[str] = []
    while True:
        page = await asyncio.to_thread(raw.gallery.ListSightings, request)
        names += [sighting.name.rsplit("/", 1)[1] for sighting in page.sightings]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert names == [f"s{n:02d}" for n in range(7)]
    request.page_token = (
        await asyncio.to_thread(
            raw.gallery.ListSightings,
            gallery_pb2.ListSightingsRequest(parent=f"sites/{site}", page_size=3),
        )
    ).next_page_token
    request.filter.cameras.append("c1")
    assert await refusal(raw.gallery.ListSightings, request) == (
        "INVALID_ARGUMENT",
        "BAD_PAGE_TOKEN",
    )
    found = await shared_server.ask(client.sightings, site, SightingFilter(cameras=("c1",)))
    assert [sighting.id for sighting in found] == ["s01", "s04"]


async def test_cameras_in_pages(shared_server: Running, raw: RawClient, site: str) -> None:
    client = shared_server.client
    assert await shared_server.ask(client.cameras, site) == []
    await shared_server.ask(client.enroll, site, sightings(7))
    right = [
        CameraSummary("c0", 3, T0, T0 + timedelta(seconds=6)),
        CameraSummary("c1", 2, T0 + timedelta(seconds=1), T0 + timedelta(seconds=4)),
        CameraSummary("c2", 2, T0 + timedelta(seconds=2), T0 + timedelta(seconds=5)),
    ]
    assert await shared_server.ask(client.cameras, site) == right
    request = gallery_pb2.ListCamerasRequest(parent=f"sites/{site}", page_size=2)
    first = await asyncio.to_thread(raw.gallery.ListCameras, request)
    assert [each.camera for each in first.cameras] == ["c0", "c1"]
    request.page_token = first.next_page_token
    last = await asyncio.to_thread(raw.gallery.ListCameras, request)
    assert [each.camera for each in last.cameras] == ["c2"]
    assert not last.next_page_token
    listed = gallery_pb2.ListSightingsRequest(parent=f"sites/{site}", page_size=2)
    request.page_token = (
        await asyncio.to_thread(raw.gallery.ListSightings, listed)
    ).next_page_token
    bad_token = ("INVALID_ARGUMENT", "BAD_PAGE_TOKEN")
    assert await refusal(raw.gallery.ListCameras, request) == bad_token
    for parent, error in (
        ("sites/nowhere", ("NOT_FOUND", "SITE_NOT_FOUND")),
        ("nowhere", ("INVALID_ARGUMENT", "BAD_NAME")),
    ):
        request = gallery_pb2.ListCamerasRequest(parent=parent)
        assert await refusal(raw.gallery.ListCameras, request) == error


async def test_another_unicode_form_is_the_same_camera_and_a_typo_is_told(
    shared_server: Running, raw: RawClient, site: str
) -> None:
    """Also for a client that is not ours."""
    nfd = normalize("NFD", "Café")
    item, sighting = gallery_pb2.EnrollItem, gallery_pb2.Sighting
    request = gallery_pb2.EnrollSightingsRequest(
        parent=f"sites/{site}",
        request_id="r-1",
        items=[
            item(sighting_id="a", sighting=sighting(image=crop(1), camera=nfd, person=nfd)),
            item(sighting_id="b", sighting=sighting(image=crop(2), camera="Hall")),
        ],
    )
    first = await asyncio.to_thread(raw.gallery.EnrollSightings, request)
    assert first.results[0].sighting.camera == first.results[0].sighting.person == "Café"
    assert await asyncio.to_thread(raw.gallery.EnrollSightings, request) == first

    async def search(**fields: Any) -> Any:
        search = gallery_pb2.SearchSightingsRequest(
            parent=f"sites/{site}",
            queries=[gallery_pb2.SearchQuery(image=crop(1))],
            filter=gallery_pb2.SightingFilter(**fields),
        )
        return await asyncio.to_thread(raw.gallery.SearchSightings, search)

    for form in ("Café", nfd):
        answer = await search(exclude_cameras=[form])
        assert [m.sighting.camera for m in answer.results[0].matches] == ["Hall"]
        assert not answer.unknown_filter_values
    answer = await search(exclude_cameras=["Cafe"], persons=[nfd])
    assert [m.sighting.camera for m in answer.results[0].matches] == ["Café"]
    assert list(answer.unknown_filter_values) == [
        gallery_pb2.UnknownFilterValues(
            field="exclude_cameras",
            values=["Cafe"],
            value_count=1,
            known=["Café", "Hall"],
            known_count=2,
        )
    ]


async def test_a_list_tells_of_unknown_values_in_its_first_page(
    shared_server: Running, raw: RawClient, site: str
) -> None:
    client = shared_server.client
    await shared_server.ask(client.enroll, site, sightings(4))
    request = gallery_pb2.ListSightingsRequest(parent=f"sites/{site}", page_size=1)
    request.filter.cameras.extend(["c0", "c9"])
    first = await asyncio.to_thread(raw.gallery.ListSightings, request)
    assert [(each.field, each.values) for each in first.unknown_filter_values] == [
        ("cameras", ["c9"])
    ]
    request.page_token = first.next_page_token
    second = await asyncio.to_thread(raw.gallery.ListSightings, request)
    assert [each.camera for each in second.sightings] == ["c0"]
    assert not second.unknown_filter_values
    told: list[UnknownValues] = []
    wanted = SightingFilter(cameras=("c0", "c9"))
    listed = await shared_server.ask(client.sightings, site, wanted, on_unknown=told.append)
    assert [each.id for each in listed] == ["s00", "s03"]
    assert told == [UnknownValues("cameras", ("c9",), 1, ("c0", "c1", "c2"), 3)]


async def test_unknown_values_have_room_in_an_answer_before_it_is_made(
    shared_server: Running, raw: RawClient, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the longest ones, told beside few sightings."""
    await shared_server.ask(shared_server.client.enroll, site, sightings(1))
    long = [f"{n}".ljust(128, "\U0001f6aa") for n in range(10)]
    unknown = gallery_pb2.SightingFilter(
        cameras=["c0", *long], exclude_cameras=long, persons=long, exclude_tracks=long
    )
    reserved: list[int] = []
    reserve = Answers.reserve

    async def reserving(answers: Answers, expected: int, context: Any) -> Reservation:
        reserved.append(expected)
        return await reserve(answers, expected, context)

    monkeypatch.setattr(Answers, "reserve", reserving)
    compact = gallery_pb2.SIGHTING_VIEW_COMPACT
    search = gallery_pb2.SearchSightingsRequest(
        parent=f"sites/{site}",
        queries=[gallery_pb2.SearchQuery(image=crop(1))],
        limit=1,
        filter=unknown,
        view=compact,
    )
    page = gallery_pb2.ListSightingsRequest(
        parent=f"sites/{site}", page_size=1, filter=unknown, view=compact
    )
    for answer in (
        await asyncio.to_thread(raw.gallery.SearchSightings, search),
        await asyncio.to_thread(raw.gallery.ListSightings, page),
    ):
        assert len(answer.unknown_filter_values) == 4
        assert 20_000 < answer.ByteSize() <= reserved.pop(0)
    assert not reserved


async def test_a_repeated_call_gives_the_same_answer(
    shared_server: Running, raw: RawClient, shared_engine: FakeEngine, site: str
) -> None:
    request = gallery_pb2.EnrollSightingsRequest(
        parent=f"sites/{site}",
        request_id="r-1",
        items=[
            gallery_pb2.EnrollItem(sighting=gallery_pb2.Sighting(image=crop(1), camera="c1")),
            gallery_pb2.EnrollItem(sighting=gallery_pb2.Sighting(image=b"x", camera="c1")),
        ],
    )
    first = await asyncio.to_thread(raw.gallery.EnrollSightings, request)
    runs = len(shared_engine.batches)
    again = await asyncio.to_thread(raw.gallery.EnrollSightings, request)
    assert first == again
    assert len(shared_engine.batches) == runs, "nothing has to be embedded to answer again"
    assert (await shared_server.ask(shared_server.client.site, site)).sightings == 1
    request.items[0].sighting.camera = "c2"
    assert await refusal(raw.gallery.EnrollSightings, request) == (
        "INVALID_ARGUMENT",
        "REQUEST_ID_REUSED",
    )


async def test_a_damaged_row_fails_the_call(start: Start, tmp_path: Path) -> None:
    running = await start()
    raw = RawClient(running.ready.grpc_address)
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
    raw.channel.close()


async def test_the_database_refuses(start: Start, tmp_path: Path) -> None:
    running = await start()
    raw = RawClient(running.ready.grpc_address)
    await running.ask(running.client.create_site, "lobby")
    with closing(sqlite3.connect(tmp_path / "data" / "resight.db")) as connection:
        connection.execute("DROP TABLE crops")
    request = gallery_pb2.GetSightingRequest(name="sites/lobby/sightings/a")
    assert await refusal(raw.gallery.GetSighting, request) == ("INTERNAL", "STORE_FAILED")
    raw.channel.close()


async def test_work_that_a_rollover_overtakes_is_done_again_with_the_new_model() -> None:
    old, new = SimpleNamespace(info="old"), SimpleNamespace(info="new")
    uses = [old]

    class Site:
        """A site whose model a test changes."""

        @asynccontextmanager
        async def held(self, site: str) -> AsyncIterator[SimpleNamespace]:
            yield uses[-1]

        async def info(self, site: str) -> str:
            return str(uses[-1].info)

    async def overtaken(model: object) -> str:
        if model is old:
            uses.append(new)
            raise ModelMismatchError("rolled over")
        return "done"

    async def refused(model: object) -> str:
        raise ModelMismatchError("of another model")

    servicer = GalleryServicer(None, Site(), None, max_items=1, max_limit=1)  # type: ignore[arg-type]
    assert await servicer._with_model_of("lobby", overtaken) == ("done", new)
    with pytest.raises(ModelMismatchError):  # no other model: another attempt would fail, too
        await servicer._with_model_of("lobby", refused)


LARGE = {f"key-{n:060d}": "x" * 1024 for n in range(32)}
"""Attributes of the largest size, but for characters of several bytes."""

MIB = 1024 * 1024


def _search_all(site: str, queries: int, limit: int, **fields: Any) -> Any:
    query = gallery_pb2.SearchQuery(sighting=f"sites/{site}/sightings/s00")
    return gallery_pb2.SearchSightingsRequest(
        parent=f"sites/{site}", queries=[query] * queries, limit=limit, **fields
    )


@pytest_asyncio.fixture(loop_scope="session")
async def large(start: Start) -> Running:
    """A server that gives answers of 1 MiB, and 40 sightings of 36 kB."""
    running = await start(max_answer_bytes=MIB)
    await running.ask(running.client.create_site, "lobby")
    await running.ask(running.client.enroll, "lobby", sightings(40, attributes=LARGE))
    return running


async def test_a_search_whose_answer_is_too_large_says_what_to_do(large: Running) -> None:
    with RawClient(large.ready.grpc_address) as raw:
        for queries, limit in ((1, 39), (10, 9)):  # of different sightings, and of the same ones
            too_large = _search_all("lobby", queries, limit)
            with pytest.raises(grpc.RpcError, match=r"RESIGHT_MAX_ANSWER_BYTES.*COMPACT") as error:
                await asyncio.to_thread(raw.gallery.SearchSightings, too_large)
            assert reason_of(error.value) == ("INVALID_ARGUMENT", "BAD_LIMIT")
            too_large.view = gallery_pb2.SIGHTING_VIEW_COMPACT
            answer = await asyncio.to_thread(raw.gallery.SearchSightings, too_large)
            assert [len(result.matches) for result in answer.results] == [limit] * queries
            match = answer.results[0].matches[0]
            assert match.sighting.camera
            assert not match.sighting.attributes
        fewer = await asyncio.to_thread(raw.gallery.SearchSightings, _search_all("lobby", 1, 20))
        assert all(m.sighting.attributes == LARGE for m in fewer.results[0].matches)


async def test_pages_end_before_they_are_too_large(large: Running) -> None:
    request = gallery_pb2.ListSightingsRequest(parent="sites/lobby", page_size=40)
    with RawClient(large.ready.grpc_address) as raw:
        pages = [await asyncio.to_thread(raw.gallery.ListSightings, request)]
        assert pages[0].ByteSize() <= MIB
        request.page_token = pages[0].next_page_token
        pages.append(await asyncio.to_thread(raw.gallery.ListSightings, request))
        assert not pages[1].next_page_token
        found = [sighting for page in pages for sighting in page.sightings]
        assert [s.name.rsplit("/", 1)[1] for s in found] == [f"s{n:02d}" for n in range(40)]
        assert all(sighting.attributes == LARGE for sighting in found)
        request.view = gallery_pb2.SIGHTING_VIEW_COMPACT
        request.page_token = ""
        compact = await asyncio.to_thread(raw.gallery.ListSightings, request)
        assert len(compact.sightings) == 40
        assert not any(sighting.attributes for sighting in compact.sightings)
    listed = await large.ask(large.client.sightings, "lobby")
    assert len(listed) == 40


async def test_what_was_enrolled_is_answered_without_attributes_where_they_are_too_large(
    large: Running,
) -> None:
    new = [replace(each, id="") for each in sightings(40, attributes=LARGE)]
    results = await large.ask(large.client.enroll, "lobby", new)
    with_attributes = [bool(result.sighting.attributes) for result in results]
    assert with_attributes[:20] == [True] * 20
    assert not with_attributes[-1]
    assert len(await large.ask(large.client.sightings, "lobby", attributes=False)) == 80


async def test_a_repeated_call_reads_no_more_than_it_has_reserved(
    large: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = gallery_pb2.EnrollSightingsRequest(
        parent="sites/lobby",
        request_id="r-1",
        items=[
            gallery_pb2.EnrollItem(
                sighting_id=f"s{n:02d}", sighting=gallery_pb2.Sighting(image=crop(n), camera="c1")
            )
            for n in range(40)
        ],
    )
    reserved: list[int] = []
    read: list[int] = []
    reserve, by_id = Answers.reserve, Store.sightings_by_id

    async def reserving(answers: Answers, expected: int, context: Any) -> Reservation:
        assert not read, "read before there was room"
        reserved.append(expected)
        return await reserve(answers, expected, context)

    def reading(*arguments: Any) -> dict[str, Sighting]:
        found = by_id(*arguments)
        read.append(sum(sighting.attribute_bytes for sighting in found.values()))
        return found

    with RawClient(large.ready.grpc_address) as raw:
        await asyncio.to_thread(raw.gallery.EnrollSightings, request)
        await large.ask(large.client.enroll, "lobby", sightings(40, attributes=LARGE))
        monkeypatch.setattr(Answers, "reserve", reserving)
        monkeypatch.setattr(Store, "sightings_by_id", reading)
        again = await asyncio.to_thread(raw.gallery.EnrollSightings, request)
    assert len(reserved) == 1
    assert reserved[0] >= MIB
    assert MIB // 2 < read[0] < MIB + 40_000, "up to the first one that exceeds the bound"
    assert again.ByteSize() <= MIB
    assert [result.sighting.name for result in again.results] == [
        f"sites/lobby/sightings/s{n:02d}" for n in range(40)
    ]


async def test_an_enrollment_has_room_for_its_answer_before_it_stores(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.rpc.answers.TURN_S", 0.01)
    running = await start(max_answer_bytes=MIB, max_answers_bytes=2 * MIB)
    await running.ask(running.client.create_site, "lobby")
    servers_answers = running.server._rpc._answers
    for client in "ab":
        await servers_answers.reserve(MIB, Call(client))
    with RawClient(running.ready.grpc_address) as raw:
        one = gallery_pb2.EnrollItem(sighting=gallery_pb2.Sighting(image=crop(1), camera="c1"))
        request = gallery_pb2.EnrollSightingsRequest(parent="sites/lobby", items=[one])
        refused = ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        assert await refusal(raw.gallery.EnrollSightings, request) == refused
    assert (await running.ask(running.client.site, "lobby")).sightings == 0


async def test_the_largest_sighting_can_be_read(large: Running) -> None:
    image = crop(1, height=1200, width=1000, suffix=".bmp")
    assert len(image) > 3 * MIB
    one = NewSighting(image=image, camera="c1", id="one", attributes=LARGE)
    await large.ask(large.client.enroll, "lobby", [one])
    assert await large.ask(large.client.crop, "lobby", "one") == image
    assert (await large.ask(large.client.sighting, "lobby", "one")).attributes == LARGE
