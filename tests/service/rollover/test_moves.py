"""Sites on their way to another model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from service.errors import (
    BadImageError,
    CallError,
    CropUnusableError,
    EngineError,
    ModelMismatchError,
    OverloadedError,
    ReembedRunningError,
    SiteNotFoundError,
    SwitchingError,
)
from service.gallery.gallery import Gallery
from service.gallery.index import IndexEntry
from service.operations.metrics import Metrics, new_metrics
from service.rollover.reembed import Move
from service.store.records import NewRow, Request
from service.store.store import Store
from service.types import (
    ModelInfo,
    Vector,
)
from tests.support.galleries import DIMENSION, Open, by_hand, item, matches, model, vector


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
        with pytest.raises(EngineError, match="sighting s2: broken"):
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


class LateStore(Store):
    """A sighting is stored just before the first attempt to change over."""

    late: NewRow | None = None

    def switch_model(self, site: str, model: str, **options: Any) -> Future[int | None]:
        if self.late is not None:
            now = self.late.sighting.created
            ttl = timedelta(hours=1)
            self.enroll(
                site, "1" * 64, [self.late], request=None, now=now, request_ttl=ttl,
                then=lambda _: None,
            ).result(10)  # fmt: skip
            self.late = None
        return super().switch_model(site, model, **options)


@pytest.mark.usefixtures("five_of_model_one")
async def test_what_comes_after_the_last_look_is_not_left_behind(
    database: Path, make_row: Callable[..., Any]
) -> None:
    store = LateStore.open(database, new_metrics())
    store.register_model("2" * 64, "m@2")
    store.late = make_row("late", 9, image=b"image 9")  # type: ignore[attr-defined]
    move = Move(store, "lobby", "2" * 64, embed_two, batch=9, drop_unusable=True, back=False)
    assert [done async for done in move.embed_crops()] == [5]
    assert await move.change_over(nullcontext(), datetime.now(UTC), lambda _: None) == 0
    assert store.site("lobby").sightings == store.count_embedded("lobby", "2" * 64) == 6
    store.close()


@pytest.mark.usefixtures("five_of_model_one")
async def test_nothing_is_enrolled_at_the_very_end(open_gallery: Open) -> None:
    async with open_gallery("1") as gallery:
        with gallery._moves._refusing_enrolment("lobby"):
            with pytest.raises(SwitchingError) as error:
                await gallery.enroll("lobby", [item("new", 7)])
            assert error.value.retry_after_s == 0.2
            with pytest.raises(SwitchingError):  # not that it is of another model
                await gallery.repeated("lobby", Request("r1", "f"))
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


@pytest.mark.usefixtures("five_of_model_one")
async def test_a_rollback_that_another_move_overtook_changes_nothing(open_gallery: Open) -> None:
    how = {"batch": 5, "drop_unusable": False}
    async with open_gallery("1") as gallery:
        _ = [step async for step in gallery.move("lobby", model("2"), embed_two, **how)]
        earlier = await gallery.earlier_model("lobby")
        assert earlier.reference == "m@1"
        _ = [step async for step in gallery.move("lobby", model("3"), embed_two, **how)]
        with pytest.raises(ReembedRunningError, match="changed to another model meanwhile"):
            _ = [
                step
                async for step in gallery.move("lobby", model("1"), embed_two, back=True, **how)
            ]
        assert (await gallery.site("lobby")).model == "m@3"
        assert (await gallery.earlier_model("lobby")).reference == "m@2"


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


class SlowStore(Store):
    """Gives the vectors of model 2 when a test says so."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.asked = threading.Event()
        self.go = threading.Event()

    def index_entries(self, site: str, model: str, dimension: int) -> Iterator[list[IndexEntry]]:
        if model == "2" * 64:
            self.asked.set()
            assert self.go.wait(10)
        return super().index_entries(site, model, dimension)


def switches(metrics: Metrics, outcome: str) -> float | None:
    return metrics.registry.get_sample_value("resight_site_switches_total", {"outcome": outcome})


@pytest.mark.usefixtures("five_of_model_one")
async def test_a_caller_who_goes_away_at_the_last_moment_leaves_nothing_half_done(
    open_gallery: Open, metrics: Metrics
) -> None:
    stores: list[SlowStore] = []

    def open_store(path: Path, metrics: Metrics) -> Store:
        stores.append(SlowStore.open(path, metrics))  # type: ignore[arg-type]
        return stores[0]

    async with open_gallery("1", metrics=metrics, open_store=open_store) as gallery:

        async def to_two() -> None:
            options = {"batch": 9, "drop_unusable": False}
            async for _ in gallery.move("lobby", model("2"), embed_two, **options):
                pass

        moving = asyncio.create_task(to_two())
        assert await asyncio.to_thread(stores[0].asked.wait, 10)
        # The database has model 2 already, the index not yet.
        for _ in range(2):
            moving.cancel()
            await asyncio.sleep(0.01)
        assert not moving.done()
        assert gallery.models_in_use() == {"1" * 64, "2" * 64}
        with pytest.raises(SwitchingError):
            await gallery.enroll("lobby", [item("late", 9)])
        (found,) = await gallery.search("lobby", [vector(1)], limit=10)
        assert matches(found) == by_hand({f"s{n}": n for n in range(5)}, 1)
        stores[0].go.set()
        with pytest.raises(asyncio.CancelledError):
            await moving
        assert gallery.models_in_use() == {"2" * 64}
        (found,) = await gallery.search("lobby", [vector(101)], limit=10, model="2" * 64)
        assert matches(found) == by_hand({f"s{n}": 100 + n for n in range(5)}, 101)
        await gallery.enroll("lobby", [item("next", 9)], model="2" * 64)
    assert (switches(metrics, "done"), switches(metrics, "failed")) == (1, None)


@pytest.mark.usefixtures("five_of_model_one")
async def test_a_move_that_ends_early_is_counted_and_changes_nothing(
    open_gallery: Open, metrics: Metrics
) -> None:
    async with open_gallery("1", metrics=metrics) as gallery:
        steps = gallery.move("lobby", model("2"), embed_two, batch=2, drop_unusable=False)
        await anext(steps)
        assert gallery.models_in_use() == {"1" * 64, "2" * 64}
        await steps.aclose()
        assert gallery.models_in_use() == {"1" * 64}
        assert (switches(metrics, "done"), switches(metrics, "failed")) == (None, 1)
        assert (await gallery.site("lobby")).model == "m@1"


@pytest.mark.usefixtures("five_of_model_one")
async def test_a_site_that_is_deleted_while_it_moves(open_gallery: Open) -> None:
    async with open_gallery("1") as gallery:
        steps = gallery.move("lobby", model("2"), embed_two, batch=2, drop_unusable=False)
        await anext(steps)
        await gallery.delete_site("lobby", force=True)
        with pytest.raises(SiteNotFoundError):
            _ = [step async for step in steps]
        assert gallery.models_in_use() == set()
        with pytest.raises(SiteNotFoundError):
            await gallery.search("lobby", [vector(1)], limit=1)
