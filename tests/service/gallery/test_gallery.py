from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import (
    BadImageError,
    BadNameError,
    CallError,
    CropUnusableError,
    DuplicateIdError,
    EngineError,
    ModelMismatchError,
    OverloadedError,
    ReembedRunningError,
    RequestIdReusedError,
    SightingNotFoundError,
    SiteExistsError,
    SiteNotFoundError,
    SwitchingError,
)
from service.gallery.gallery import Gallery
from service.gallery.index import VectorIndex
from service.gallery.records import Request
from service.gallery.reembed import Move
from service.gallery.search import search
from service.gallery.store import Store
from service.metrics import Metrics, new_metrics
from service.types import (
    Enrolled,
    Match,
    ModelInfo,
    NewSighting,
    SightingFilter,
    Vector,
)

DIMENSION = 4
Open = Callable[..., Any]


def model(version: str = "1") -> ModelInfo:
    return ModelInfo("m", version, version * 64, DIMENSION, 32, 16, "b", "source", "cpu")


def vector(number: int) -> Vector:
    row = np.random.default_rng(number).normal(size=DIMENSION)
    return np.asarray(row / np.linalg.norm(row), np.float32)


def item(sighting: str, number: int, **fields: Any) -> tuple[NewSighting, Vector]:
    new: dict[str, Any] = {"image": b"image %d" % number, "camera": f"c{number % 3}"}
    return NewSighting(id=sighting, **(new | fields)), vector(number)


@pytest.fixture
def open_gallery(
    database: Path, clock: Callable[[], datetime], new_id: Callable[[], str]
) -> Callable[..., Any]:
    """A gallery on the test's database; leaving the block closes it like a server that stops."""

    @asynccontextmanager
    async def opened(
        version: str = "1", keep_crops: bool = True, metrics: Metrics | None = None
    ) -> AsyncIterator[Gallery]:
        metrics = metrics or new_metrics()
        store = Store.open(database, metrics)
        gallery = Gallery(
            store,
            model(version),
            clock=clock,
            new_id=new_id,
            keep_crops=keep_crops,
            request_ttl=timedelta(hours=1),
            search_threads=2,
            metrics=metrics,
        )
        try:
            gallery.load()
            yield gallery
        finally:
            gallery.close()
            store.close()

    return opened


def matches(answer: list[Match] | SightingNotFoundError) -> list[tuple[str, float]]:
    assert not isinstance(answer, CallError)
    return [(match.sighting.id, match.score) for match in answer]


def by_hand(numbers: dict[str, int], query: int) -> list[tuple[str, float]]:
    wide = vector(query).astype(float)
    scores = {name: float(vector(number).astype(float) @ wide) for name, number in numbers.items()}
    ordered = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
    return [(name, pytest.approx(score, abs=1e-6)) for name, score in ordered]


async def test_enroll_then_search(open_gallery: Open, clock: Any) -> None:
    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        results = await gallery.enroll("lobby", [item(f"s{n}", n) for n in range(6)])
        assert [result.sighting.id for result in results] == [f"s{n}" for n in range(6)]
        assert not any(result.replaced for result in results)
        assert results[0].sighting.time == results[0].sighting.created == clock.now
        (found,) = await gallery.search("lobby", [vector(2)], limit=10)
        assert matches(found) == by_hand({f"s{n}": n for n in range(6)}, 2)
        assert found[0].sighting == results[2].sighting
        (found,) = await gallery.search(
            "lobby", [vector(2)], limit=1, wanted=SightingFilter(exclude_cameras=("c2",))
        )
        assert matches(found) == by_hand({"s0": 0, "s1": 1, "s3": 3, "s4": 4}, 2)[:1]


async def test_ids_are_made_where_none_is_given(open_gallery: Open) -> None:
    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        results = await gallery.enroll("lobby", [item("", 1), item("", 1), item("own", 2)])
        assert [r.sighting.id for r in results] == ["made-001", "made-002", "own"]


async def test_errors_pass_through_in_their_place(open_gallery: Open) -> None:
    bad = BadImageError("broken")
    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        results = await gallery.enroll("lobby", [item("a", 1), bad, item("a", 2), item("b", 3)])
        assert isinstance(results[0], Enrolled)
        assert results[1] is bad
        assert isinstance(results[2], DuplicateIdError)
        assert isinstance(results[3], Enrolled)
        (found,) = await gallery.search("lobby", [vector(1)], limit=10)
        assert matches(found) == by_hand({"a": 1, "b": 3}, 1)


async def test_search_by_sighting_leaves_itself_out(open_gallery: Open) -> None:
    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        await gallery.enroll("lobby", [item(f"s{n}", n) for n in range(4)])
        found = await gallery.search("lobby", ["s1", "nobody", vector(1)], limit=10)
        everybody = {f"s{n}": n for n in range(4)}
        assert matches(found[0]) == by_hand({k: v for k, v in everybody.items() if v != 1}, 1)
        assert isinstance(found[1], SightingNotFoundError)
        assert matches(found[2]) == by_hand(everybody, 1)


async def test_deleted_sightings_are_not_found_any_more(
    open_gallery: Open, metrics: Metrics
) -> None:
    def searched() -> float | None:
        return metrics.registry.get_sample_value("resight_gallery_sightings", {"site": "lobby"})

    async with open_gallery(metrics=metrics) as gallery:
        await gallery.create_site("lobby")
        await gallery.enroll("lobby", [item(f"s{n}", n) for n in range(3)])
        assert searched() == 3
        await gallery.delete_sighting("lobby", "s1")
        assert searched() == 2
        (found,) = await gallery.search("lobby", [vector(1)], limit=10)
        assert matches(found) == by_hand({"s0": 0, "s2": 2}, 1)
        with pytest.raises(SightingNotFoundError):
            await gallery.delete_sighting("lobby", "s1")
        await gallery.delete_site("lobby", force=True)
        assert searched() is None
        with pytest.raises(SiteNotFoundError):
            await gallery.search("lobby", [vector(1)], limit=10)


async def test_the_index_can_always_be_rebuilt(open_gallery: Open) -> None:
    """Whatever happened, a fresh index of the same store gives the same answers."""
    rng = np.random.default_rng(0)
    queries = [vector(1000 + n) for n in range(5)]
    wanted = SightingFilter(exclude_cameras=("c1",))

    async def ask(gallery: Gallery) -> list[Any]:
        return [
            await gallery.search("lobby", queries, limit=limit, wanted=filter_)
            for limit in (3, 50)
            for filter_ in (SightingFilter(), wanted)
        ]

    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        for step in range(20):
            numbers = rng.choice(30, 5, replace=False)
            await gallery.enroll("lobby", [item(f"s{n}", int(n) + step) for n in numbers])
            if step % 3 == 0:
                await gallery.delete_sighting("lobby", f"s{numbers[0]}")
        before = await ask(gallery)
    async with open_gallery() as gallery:
        assert await ask(gallery) == before


async def test_concurrent_changes_end_in_the_same_state_as_the_store(open_gallery: Open) -> None:
    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        await asyncio.gather(*(gallery.enroll("lobby", [item(f"s{n % 5}", n)]) for n in range(60)))
        before = await gallery.search("lobby", [vector(0)], limit=10)
        assert len(before[0]) == 5
    async with open_gallery() as gallery:
        assert await gallery.search("lobby", [vector(0)], limit=10) == before


async def test_a_sighting_that_is_being_replaced_never_passes_a_filter_of_its_old_crop(
    open_gallery: Open,
) -> None:
    ids = [f"s{n}" for n in range(15)]
    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        await gallery.enroll("lobby", [item(name, 0, camera="c1") for name in ids])
        done = asyncio.Event()

        async def replace() -> None:
            for step in range(60):
                camera = f"c{1 + step % 2}"
                await gallery.enroll("lobby", [item(name, step, camera=camera) for name in ids])
            done.set()

        async def look() -> None:
            wanted = SightingFilter(cameras=("c1",))
            while not done.is_set():
                (found,) = await gallery.search("lobby", [vector(0)], limit=20, wanted=wanted)
                assert {match.sighting.camera for match in found} <= {"c1"}

        await asyncio.gather(replace(), look(), look())


async def test_a_hit_of_a_replaced_row_is_no_match(open_gallery: Open, store: Store) -> None:
    """The moment between the commit and the index, held still: camera c1 became c2."""
    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        await gallery.enroll("lobby", [item("s0", 0, camera="c1")])
        ((old,),) = store.index_entries("lobby", "1" * 64, DIMENSION)
        await gallery.enroll("lobby", [item("s0", 1, camera="c2")])
    index = VectorIndex(DIMENSION)
    index.upsert([old])
    (found,) = search(index, store, "lobby", [vector(0)], 5, SightingFilter(cameras=("c1",)))
    assert found == []


async def test_a_repeated_request_changes_nothing(open_gallery: Open) -> None:
    request = Request("r1", "content")
    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        assert await gallery.repeated("lobby", request) is None
        first = await gallery.enroll("lobby", [item("", 1), BadImageError("x")], request)
        assert (await gallery.repeated("lobby", request))[0] == first[0]
        again = await gallery.enroll("lobby", [item("made-001", 2), item("", 3)], request)
        assert again[0] == first[0]
        assert isinstance(again[1], BadImageError)
        assert (await gallery.site("lobby")).sightings == 1
        (found,) = await gallery.search("lobby", [vector(1)], limit=10)
        assert matches(found) == by_hand({"made-001": 1}, 1)
        with pytest.raises(RequestIdReusedError):
            await gallery.enroll("lobby", [item("", 2)], Request("r1", "other"))
        await gallery.delete_sighting("lobby", "made-001")
        (gone, _) = await gallery.repeated("lobby", request)
        assert isinstance(gone, SightingNotFoundError)


@pytest.mark.parametrize("event", ["start", "delete_sighting", "delete_site"])
async def test_old_request_ids_are_forgotten(
    open_gallery: Open, store: Store, clock: Any, event: str
) -> None:
    old = Request("r", "c")
    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        await gallery.create_site("yard")
        await gallery.enroll("lobby", [item("a", 1)], old)
        clock.forward(hours=2)
        assert store.repeated("lobby", "1" * 64, old) is not None
        if event == "delete_sighting":
            await gallery.delete_sighting("lobby", "a")
        elif event == "delete_site":
            await gallery.delete_site("yard", force=False)
        else:
            gallery.load()
        assert store.repeated("lobby", "1" * 64, old) is None


async def test_simultaneous_repeats_enroll_once(open_gallery: Open) -> None:
    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        answers = await asyncio.gather(
            *(gallery.enroll("lobby", [item("", 1)], Request("r", "c")) for _ in range(8))
        )
        assert len({answer[0].sighting.id for answer in answers}) == 1
        assert (await gallery.site("lobby")).sightings == 1


async def test_sites(open_gallery: Open) -> None:
    async with open_gallery() as gallery:
        site = await gallery.create_site("b")
        assert (site.id, site.model, site.sightings, site.ready) == ("b", "m@1", 0, True)
        await gallery.create_site("a")
        assert [site.id for site in await gallery.sites()] == ["a", "b"]
        with pytest.raises(SiteExistsError):
            await gallery.create_site("a")
        for bad in ("", "a/b", ".."):
            with pytest.raises(BadNameError):
                await gallery.create_site(bad)


async def test_crops_are_kept_or_not(open_gallery: Open) -> None:
    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        await gallery.enroll("lobby", [item("kept", 1)])
        assert await gallery.crop("lobby", "kept") == b"image 1"
        assert (await gallery.sighting("lobby", "kept")).crop_kept
    async with open_gallery(keep_crops=False) as gallery:
        await gallery.enroll("lobby", [item("not", 2)])
        assert await gallery.crop("lobby", "not") is None
        assert not (await gallery.sighting("lobby", "not")).crop_kept


# --- another model


async def embed_two(images: Sequence[bytes]) -> list[Vector | CallError]:
    """Model 2: the vector of the number in the image, plus 100."""
    return [vector(100 + int(image.split()[1])) for image in images]


async def reembed(gallery: Gallery, **options: Any) -> list[Any]:
    options = {"batch": 2, "drop_unusable": False} | options
    embed = options.pop("embed", embed_two)
    return [step async for step in gallery.move("lobby", gallery.model, embed, **options)]


@pytest.fixture
async def five_of_model_one(open_gallery: Open) -> None:
    async with open_gallery("1") as gallery:
        await gallery.create_site("lobby")
        await gallery.enroll("lobby", [item(f"s{n}", n) for n in range(5)])


@pytest.mark.usefixtures("five_of_model_one")
async def test_vectors_of_two_models_never_meet(
    open_gallery: Open, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_gallery("2") as gallery:
        # Names may coincide: the fingerprints tell.
        with pytest.raises(ModelMismatchError, match=r"fingerprint 1{12}\).*2{12}"):
            await gallery.require_ready("lobby")
        assert "m@1 (fingerprint 111111111111), not m@2 (222222222222)" in caplog.text
        for call in (
            gallery.search("lobby", [vector(1)], limit=3),
            gallery.require_ready("lobby"),
            gallery.enroll("lobby", [item("new", 9)]),
            gallery.repeated("lobby", Request("r", "c")),
        ):
            with pytest.raises(ModelMismatchError, match="resight site reembed lobby"):
                await call
        site = await gallery.site("lobby")
        assert (site.model, site.ready, site.sightings) == ("m@1", False, 5)
        fresh = await gallery.create_site("new")
        assert (fresh.model, fresh.ready) == ("m@2", True)
        # Reading and forgetting need no model.
        assert (await gallery.sighting("lobby", "s1")).id == "s1"
        await gallery.delete_sighting("lobby", "s1")
    async with open_gallery("1") as gallery:
        (found,) = await gallery.search("lobby", [vector(1)], limit=10)
        assert matches(found) == by_hand({f"s{n}": n for n in (0, 2, 3, 4)}, 1)


@pytest.mark.usefixtures("five_of_model_one")
async def test_reembed(open_gallery: Open) -> None:
    right = by_hand({f"s{n}": 100 + n for n in range(5)}, 103)
    async with open_gallery("2") as gallery:
        steps = await reembed(gallery)
        assert [step.embedded for step in steps] == [2, 4, 5, 5]
        assert {step.total for step in steps} == {5}
        assert [step.site.ready for step in steps] == [False, False, False, True]
        (found,) = await gallery.search("lobby", [vector(103)], limit=10)
        assert matches(found) == right
        await gallery.enroll("lobby", [item("new", 7)])
        (last,) = await reembed(gallery)
        assert (last.embedded, last.site.model) == (6, "m@2")
    async with open_gallery("2") as gallery:
        (found,) = await gallery.search("lobby", [vector(103)], limit=10)
        assert [pair for pair in matches(found) if pair[0] != "new"] == right
    async with open_gallery("1") as gallery:
        with pytest.raises(ModelMismatchError):
            await gallery.search("lobby", [vector(1)], limit=3)


@pytest.mark.usefixtures("five_of_model_one")
async def test_reembed_goes_on_where_it_was_interrupted(open_gallery: Open) -> None:
    asked: list[int] = []

    async def counting(images: Sequence[bytes]) -> list[Vector | CallError]:
        asked.append(len(images))
        return await embed_two(images)

    async def failing(images: Sequence[bytes]) -> list[Vector | CallError]:
        if asked:
            return [EngineError("broken") for _ in images]
        return await counting(images)

    async with open_gallery("2") as gallery:
        with pytest.raises(EngineError):
            await reembed(gallery, embed=failing)
        assert not (await gallery.site("lobby")).ready
    async with open_gallery("2") as gallery:
        await reembed(gallery, embed=counting)
        assert asked == [2, 2, 1]
        (found,) = await gallery.search("lobby", [vector(103)], limit=10)
        assert matches(found) == by_hand({f"s{n}": 100 + n for n in range(5)}, 103)


async def test_reembed_with_unusable_crops(open_gallery: Open) -> None:
    async with open_gallery("1") as gallery:
        await gallery.create_site("lobby")
        await gallery.enroll("lobby", [item("s0", 0), item("broken", 1)])
    async with open_gallery("1", keep_crops=False) as gallery:
        await gallery.enroll("lobby", [item("not-kept", 2), item("not-kept-2", 3)])

    async def embed(images: Sequence[bytes]) -> list[Vector | CallError]:
        vectors = await embed_two(images)
        return [
            BadImageError("broken") if image == b"image 1" else result
            for image, result in zip(images, vectors, strict=True)
        ]

    async with open_gallery("2") as gallery:
        with pytest.raises(CropUnusableError, match=r"sighting broken .*broken"):
            await reembed(gallery, embed=embed)
        await gallery.delete_sighting("lobby", "broken")
        with pytest.raises(CropUnusableError, match=r"sighting not-kept .*not kept"):
            await reembed(gallery, embed=embed)
        assert (await gallery.site("lobby")).sightings == 3
        steps = await reembed(gallery, embed=embed, drop_unusable=True, batch=2)
        assert [(step.embedded, step.dropped) for step in steps] == [(1, 1), (1, 2), (1, 2)]
        (found,) = await gallery.search("lobby", [vector(103)], limit=10)
        assert matches(found) == by_hand({"s0": 100}, 103)


@pytest.mark.usefixtures("five_of_model_one")
async def test_reembed_waits_while_the_server_is_busy(open_gallery: Open) -> None:
    refusals = iter([True, True, False] * 9)

    async def busy(images: Sequence[bytes]) -> list[Vector | CallError]:
        if next(refusals):
            raise OverloadedError("busy", retry_after_s=0.001)
        return await embed_two(images)

    async with open_gallery("2") as gallery:
        steps = await reembed(gallery, embed=busy)
        assert steps[-1].site.ready


@pytest.mark.usefixtures("five_of_model_one")
async def test_two_reembeds_at_once(open_gallery: Open) -> None:
    async with open_gallery("2") as gallery:
        first = gallery.move("lobby", gallery.model, embed_two, batch=1, drop_unusable=False)
        await anext(first)
        with pytest.raises(ReembedRunningError):
            await reembed(gallery)
        await first.aclose()
        assert (await reembed(gallery))[-1].site.ready


@pytest.mark.usefixtures("five_of_model_one")
async def test_a_site_answers_as_before_while_it_moves(open_gallery: Open) -> None:
    numbers = {f"s{n}": n for n in range(5)}
    async with open_gallery("1") as gallery:
        steps = gallery.move("lobby", model("2"), embed_two, batch=2, drop_unusable=False)
        first = await anext(steps)
        assert (first.embedded, first.site.model, first.site.ready) == (2, "m@1", True)
        (found,) = await gallery.search("lobby", [vector(1)], limit=10)
        assert matches(found) == by_hand(numbers, 1)
        # What comes meanwhile is of model 1, and moves, too.
        await gallery.enroll("lobby", [item("new", 7), item("s0", 8)])
        numbers |= {"new": 7, "s0": 8}
        (found,) = await gallery.search("lobby", [vector(1)], limit=10)
        assert matches(found) == by_hand(numbers, 1)
        *_, last = [step async for step in steps]
        assert (last.embedded, last.site.model) == (6, "m@2")
        moved = {name: 100 + number for name, number in numbers.items()}
        with pytest.raises(ModelMismatchError):
            await gallery.search("lobby", [vector(101)], limit=10, model="1" * 64)
        with pytest.raises(ModelMismatchError):
            await gallery.enroll("lobby", [item("late", 9)], model="1" * 64)
        (found,) = await gallery.search("lobby", [vector(101)], limit=10, model="2" * 64)
        assert matches(found) == by_hand(moved, 101)
        assert (await gallery.require_ready("lobby")).reference == "m@2"


@pytest.mark.usefixtures("five_of_model_one")
async def test_what_is_on_its_way_to_the_database_at_the_end_moves_too(
    database: Path, make_row: Callable[..., Any]
) -> None:
    store = Store.open(database, new_metrics())
    store.register_model("2" * 64, "m@2")
    move = Move(store, "lobby", "2" * 64, embed_two, batch=2, drop_unusable=False, back=False)
    now = datetime(2026, 1, 1, tzinfo=UTC)

    @contextmanager
    def late() -> Iterator[None]:
        row = make_row("late", 9, image=b"image 9")
        store.enroll(
            "lobby", "1" * 64, [row], request=None, now=now,
            request_ttl=timedelta(hours=1), then=lambda _: None,
        ).result(10)  # fmt: skip
        yield

    assert [done async for done in move.embed_crops()] == [2, 4, 5]
    assert await move.change_over(late(), now, lambda _: None) == 0
    assert store.count_embedded("lobby", "2" * 64) == 6
    assert store.site("lobby").model == "2" * 64
    store.close()


@pytest.mark.usefixtures("five_of_model_one")
async def test_nothing_is_enrolled_at_the_very_end(open_gallery: Open) -> None:
    async with open_gallery("1") as gallery:
        with gallery._refusing_enrolment("lobby"):
            with pytest.raises(SwitchingError) as error:
                await gallery.enroll("lobby", [item("new", 7)])
            assert error.value.retry_after_s == 0.2
            (found,) = await gallery.search("lobby", [vector(1)], limit=10)
            assert len(matches(found)) == 5
        await gallery.enroll("lobby", [item("new", 7)])


@pytest.mark.usefixtures("five_of_model_one")
async def test_a_rollback_embeds_only_what_is_new(open_gallery: Open) -> None:
    asked: list[bytes] = []

    async def embed_one(images: Sequence[bytes]) -> list[Vector | CallError]:
        asked.extend(images)
        return [vector(int(image.split()[1])) for image in images]

    async with open_gallery("1") as gallery:
        assert await gallery.earlier_model("lobby") is None
        first = {"batch": 2, "drop_unusable": False}
        _ = [step async for step in gallery.move("lobby", model("2"), embed_two, **first)]
        await gallery.enroll("lobby", [item("new", 107)], model="2" * 64)
        earlier = await gallery.earlier_model("lobby")
        assert earlier.reference == "m@1"
        _ = [
            step async for step in gallery.move("lobby", model("1"), embed_one, back=True, **first)
        ]
        assert asked == [b"image 107"]
        (found,) = await gallery.search("lobby", [vector(1)], limit=10)
        assert matches(found) == by_hand({"new": 107} | {f"s{n}": n for n in range(5)}, 1)
        assert await gallery.earlier_model("lobby") is None


async def test_the_same_name_with_other_weights_is_another_model(
    open_gallery: Open, database: Path, clock: Any, new_id: Any
) -> None:
    async with open_gallery("1") as gallery:
        await gallery.create_site("lobby")
    metrics = new_metrics()
    store = Store.open(database, metrics)
    changed = ModelInfo("m", "1", "9" * 64, DIMENSION, 32, 16, "b", "source", "cpu")
    gallery = Gallery(
        store,
        changed,
        clock=clock,
        new_id=new_id,
        keep_crops=True,
        request_ttl=timedelta(hours=1),
        search_threads=1,
        metrics=metrics,
    )
    gallery.load()
    with pytest.raises(ModelMismatchError, match=r"fingerprint 111111111111.*999999999999"):
        await gallery.search("lobby", [vector(1)], limit=1)
    gallery.close()
    store.close()
