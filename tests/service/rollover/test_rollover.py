"""Rollovers of sites to another model."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import service.rollover.rollover
from service.errors import (
    BadImageError,
    CallError,
    CropUnusableError,
    EngineError,
    EnrollmentPausedError,
    ModelMismatchError,
    RolloverRunningError,
    SiteNotFoundError,
    StoreError,
)
from service.gallery.live_sites import LiveSites
from service.operations.metrics import Metrics, new_metrics
from service.rollover.rollover import Activation, Rollover, RolloverState
from service.store.records import IdempotencyKey, NewRow
from service.store.store import Store
from service.types import ModelInfo, RolloverProgress, Vector
from tests.support.galleries import (
    DIMENSION,
    ONE,
    TWO,
    Open,
    Rooms,
    by_hand,
    item,
    matches,
    model,
    vector,
)


async def embed_two(images: Sequence[bytes], *, hurry: bool) -> list[Vector | CallError]:
    """Model 2: the vector of the number in the image, plus 100."""
    return [vector(100 + int(image.split()[1])) for image in images]


async def reembed(rooms: Rooms, embed: Any = embed_two, **options: Any) -> list[Any]:
    """The steps of a rollover to the server's own model."""
    return [step async for step in rooms.roll_over(rooms.gallery.model, embed, **options)]


async def consumed(steps: AsyncGenerator[RolloverProgress]) -> list[RolloverProgress]:
    return [step async for step in steps]


@pytest.fixture
async def five_of_model_one(open_rooms: Open) -> None:
    async with open_rooms("1") as rooms:
        await rooms.gallery.create_site("lobby")
        await rooms.gallery.enroll("lobby", ONE, [item(f"s{n}", n) for n in range(5)])


@pytest.mark.usefixtures("five_of_model_one")
async def test_vectors_of_two_models_never_meet(
    open_rooms: Open, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_rooms("2") as rooms:
        # Names may coincide: the fingerprints tell.
        with pytest.raises(ModelMismatchError, match=r"fingerprint 1{12}\).*2{12}"):
            await rooms.gallery.require_ready("lobby")
        assert "m@1 (fingerprint 111111111111), not m@2 (222222222222)" in caplog.text
        for call in (
            rooms.gallery.search("lobby", TWO, [vector(1)], limit=3),
            rooms.gallery.require_ready("lobby"),
            rooms.gallery.enroll("lobby", TWO, [item("new", 9)]),
            rooms.gallery.earlier_outcome("lobby", IdempotencyKey("r", "c")),
        ):
            with pytest.raises(ModelMismatchError, match="resight site reembed lobby"):
                await call
        site = await rooms.gallery.site("lobby")
        assert (site.model, site.ready, site.sightings) == ("m@1", False, 5)
        fresh = await rooms.gallery.create_site("new")
        assert (fresh.model, fresh.ready) == ("m@2", True)
        # Reading and forgetting need no model.
        assert (await rooms.gallery.sighting("lobby", "s1")).id == "s1"
        await rooms.gallery.delete_sighting("lobby", "s1")
    async with open_rooms("1") as rooms:
        (found,) = await rooms.gallery.search("lobby", ONE, [vector(1)], limit=10)
        assert matches(found) == by_hand({f"s{n}": n for n in (0, 2, 3, 4)}, 1)


@pytest.mark.usefixtures("five_of_model_one")
async def test_reembed(open_rooms: Open) -> None:
    right = by_hand({f"s{n}": 100 + n for n in range(5)}, 103)
    async with open_rooms("2") as rooms:
        steps = await reembed(rooms)
        assert [step.embedded for step in steps] == [2, 4, 5, 5]
        assert {step.total for step in steps} == {5}
        assert [step.site.ready for step in steps] == [False, False, False, True]
        (found,) = await rooms.gallery.search("lobby", TWO, [vector(103)], limit=10)
        assert matches(found) == right
        await rooms.gallery.enroll("lobby", TWO, [item("new", 7)])
        (last,) = await reembed(rooms)
        assert (last.embedded, last.site.model) == (6, "m@2")
    async with open_rooms("2") as rooms:
        (found,) = await rooms.gallery.search("lobby", TWO, [vector(103)], limit=10)
        assert [pair for pair in matches(found) if pair[0] != "new"] == right
    async with open_rooms("1") as rooms:
        with pytest.raises(ModelMismatchError):
            await rooms.gallery.search("lobby", ONE, [vector(1)], limit=3)


@pytest.mark.usefixtures("five_of_model_one")
async def test_reembedding_continues_where_it_was_interrupted(open_rooms: Open) -> None:
    asked: list[int] = []

    async def counting(images: Sequence[bytes], *, hurry: bool) -> list[Vector | CallError]:
        asked.append(len(images))
        return await embed_two(images, hurry=hurry)

    async def failing(images: Sequence[bytes], *, hurry: bool) -> list[Vector | CallError]:
        if asked:
            return [EngineError("broken") for _ in images]
        return await counting(images, hurry=hurry)

    async with open_rooms("2") as rooms:
        with pytest.raises(EngineError, match="sighting s2: broken"):
            await reembed(rooms, embed=failing)
        assert not (await rooms.gallery.site("lobby")).ready
    async with open_rooms("2") as rooms:
        await reembed(rooms, embed=counting)
        assert asked == [2, 2, 1]
        (found,) = await rooms.gallery.search("lobby", TWO, [vector(103)], limit=10)
        assert matches(found) == by_hand({f"s{n}": 100 + n for n in range(5)}, 103)


async def test_reembed_with_unusable_crops(open_rooms: Open) -> None:
    async with open_rooms("1") as rooms:
        await rooms.gallery.create_site("lobby")
        await rooms.gallery.enroll("lobby", ONE, [item("s0", 0), item("broken", 1)])
    async with open_rooms("1", keep_crops=False) as rooms:
        await rooms.gallery.enroll("lobby", ONE, [item("not-kept", 2), item("not-kept-2", 3)])

    async def embed(images: Sequence[bytes], *, hurry: bool) -> list[Vector | CallError]:
        vectors = await embed_two(images, hurry=hurry)
        return [
            BadImageError("broken") if image == b"image 1" else result
            for image, result in zip(images, vectors, strict=True)
        ]

    async with open_rooms("2") as rooms:
        with pytest.raises(CropUnusableError, match=r"sighting broken .*broken"):
            await reembed(rooms, embed=embed)
        await rooms.gallery.delete_sighting("lobby", "broken")
        with pytest.raises(CropUnusableError, match=r"sighting not-kept .*not kept"):
            await reembed(rooms, embed=embed)
        assert (await rooms.gallery.site("lobby")).sightings == 3
        steps = await reembed(rooms, embed=embed, drop_unusable=True)
        assert [(step.embedded, step.dropped) for step in steps] == [(1, 1), (1, 2), (1, 2)]
        (found,) = await rooms.gallery.search("lobby", TWO, [vector(103)], limit=10)
        assert matches(found) == by_hand({"s0": 100}, 103)


async def test_many_unusable_crops_are_dropped_in_portions(
    open_rooms: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.rollover.rollover, "MAX_DROPPED_AT_ONCE", 2)
    monkeypatch.setattr(service.rollover.rollover, "_PORTION", 3)
    async with open_rooms("1", keep_crops=False) as rooms:
        await rooms.gallery.create_site("lobby")
        await rooms.gallery.enroll("lobby", ONE, [item(f"gone{n}", n) for n in range(10)])
    async with open_rooms("1") as rooms:
        await rooms.gallery.enroll("lobby", ONE, [item("s0", 0), item("s1", 1)])
        dropped: list[int] = []
        bound: list[int] = []
        drop, bind = rooms.store.drop_sightings, rooms.store.bind_site

        def dropping(site: str, model: str, rows: Sequence[int], *more: Any) -> Any:
            dropped.append(len(rows))
            if len(dropped) == 1:  # its owner deletes one meanwhile
                rooms.store.delete_sighting("lobby", "gone0", lambda _: None).result(10)
            assert rooms.store.site("lobby").model == ONE
            return drop(site, model, rows, *more)

        def binding(*given: Any, **named: Any) -> Any:
            bound.append(rooms.store.site("lobby").sightings)
            return bind(*given, **named)

        monkeypatch.setattr(rooms.store, "drop_sightings", dropping)
        monkeypatch.setattr(rooms.store, "bind_site", binding)
        steps = [step async for step in rooms.roll_over(model("2"), embed_two, drop_unusable=True)]
        assert (dropped, bound) == ([3, 3, 3], [3])
        assert (steps[-1].embedded, steps[-1].dropped) == (2, 9)
        (found,) = await rooms.gallery.search("lobby", TWO, [vector(100)], limit=10)
        assert matches(found) == by_hand({"s0": 100, "s1": 101}, 100)
        assert rooms.store.site("lobby").sightings == 2


@pytest.mark.usefixtures("five_of_model_one")
async def test_two_rollovers_at_once(open_rooms: Open) -> None:
    async with open_rooms("2", batch=1) as rooms:
        first = rooms.roll_over(model("2"), embed_two)
        await anext(first)
        with pytest.raises(RolloverRunningError, match=r"to m@2 is running \(RE_EMBEDDING\)"):
            await reembed(rooms)
        await first.aclose()
        assert (await reembed(rooms))[-1].site.ready


@pytest.mark.usefixtures("five_of_model_one")
async def test_a_site_answers_as_before_during_a_rollover(open_rooms: Open) -> None:
    numbers = {f"s{n}": n for n in range(5)}
    async with open_rooms("1") as rooms:
        steps = rooms.roll_over(model("2"), embed_two)
        first = await anext(steps)
        assert (first.embedded, first.site.model, first.site.ready) == (2, "m@1", True)
        (found,) = await rooms.gallery.search("lobby", ONE, [vector(1)], limit=10)
        assert matches(found) == by_hand(numbers, 1)
        # What is enrolled meanwhile is of model 1, and is re-embedded, too.
        await rooms.gallery.enroll("lobby", ONE, [item("new", 7), item("s0", 8)])
        numbers |= {"new": 7, "s0": 8}
        cameras = await rooms.gallery.cameras("lobby")
        assert {each.camera: each.sightings for each in cameras} == {
            "c0": 1,
            "c1": 3,
            "c2": 2,
        }
        (found,) = await rooms.gallery.search("lobby", ONE, [vector(1)], limit=10)
        assert matches(found) == by_hand(numbers, 1)
        *_, last = [step async for step in steps]
        assert (last.embedded, last.site.model) == (6, "m@2")
        expected = {name: 100 + number for name, number in numbers.items()}
        with pytest.raises(ModelMismatchError):
            await rooms.gallery.search("lobby", ONE, [vector(101)], limit=10)
        with pytest.raises(ModelMismatchError):
            await rooms.gallery.enroll("lobby", ONE, [item("late", 9)])
        (found,) = await rooms.gallery.search("lobby", TWO, [vector(101)], limit=10)
        assert matches(found) == by_hand(expected, 101)
        assert await rooms.gallery.cameras("lobby") == cameras
        assert (await rooms.gallery.require_ready("lobby")).reference == "m@2"


class LateSites(LiveSites):
    """A write is queued just before enrollment is paused."""

    def __init__(self, store: Store, metrics: Metrics, late: Callable[[], None]) -> None:
        super().__init__(store, metrics)
        self._late = late

    @contextmanager
    def pause_enrollment(self, site: str) -> Iterator[None]:
        self._late()
        with super().pause_enrollment(site):
            yield


@pytest.mark.usefixtures("five_of_model_one")
async def test_what_is_on_its_way_to_the_database_at_the_end_is_included(
    database: Path, make_row: Callable[..., Any], clock: Any
) -> None:
    metrics = new_metrics()
    store = Store.open(database, metrics)

    def late() -> None:
        row = make_row("late", 9, image=b"image 9")
        store.enroll(
            "lobby", ONE, [row], key=None, now=clock(),
            request_ttl=timedelta(hours=1), then=lambda _: None,
        ).result(10)  # fmt: skip

    activation = Activation("lobby", model("2"), embed_two, drop_unusable=False)
    sites = LateSites(store, metrics, late)
    rollover = Rollover(store, sites, activation, batch=2, clock=clock, metrics=metrics)
    steps = [(step.embedded, step.dropped) async for step in rollover.run()]
    assert steps == [(2, 0), (4, 0), (5, 0), (6, 0)]
    assert rollover.state is RolloverState.DONE
    assert store.count_embedded("lobby", TWO) == 6
    assert store.site("lobby").model == TWO
    store.close()


class LateStore(Store):
    """A sighting is stored just before the first attempt to bind the site."""

    late: NewRow | None = None

    def bind_site(self, site: str, model: str, **options: Any) -> Future[int | None]:
        if self.late is not None:
            now = self.late.sighting.created
            ttl = timedelta(hours=1)
            self.enroll(
                site, ONE, [self.late], key=None, now=now, request_ttl=ttl,
                then=lambda _: None,
            ).result(10)  # fmt: skip
            self.late = None
        return super().bind_site(site, model, **options)


@pytest.mark.usefixtures("five_of_model_one")
async def test_what_comes_after_the_last_step_is_not_left_out(
    database: Path, make_row: Callable[..., Any], clock: Any
) -> None:
    metrics = new_metrics()
    store = LateStore.open(database, metrics)
    store.late = make_row("late", 9, image=b"image 9")  # type: ignore[attr-defined]
    activation = Activation("lobby", model("2"), embed_two, drop_unusable=True)
    sites = LiveSites(store, metrics)
    rollover = Rollover(store, sites, activation, batch=9, clock=clock, metrics=metrics)
    steps = [(step.embedded, step.dropped) async for step in rollover.run()]
    assert steps == [(5, 0), (6, 0)]
    assert store.site("lobby").sightings == store.count_embedded("lobby", TWO) == 6
    store.close()


@pytest.mark.usefixtures("five_of_model_one")
async def test_enrollment_that_keeps_pace_is_refused_now_and_then_until_the_site_is_bound(
    database: Path, make_row: Callable[..., Any], clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It embeds 8 crops in a second. Where others may enroll, as many come in, at first more."""
    caplog.set_level("INFO")
    metrics = new_metrics()
    store = Store.open(database, metrics)
    sites = LiveSites(store, metrics)
    seconds, steps = 0.0, ""

    async def embed(images: Sequence[bytes], *, hurry: bool) -> list[Vector | CallError]:
        nonlocal seconds, steps
        seconds += len(images) / 8
        try:
            sites.check_enrollment("lobby")
        except EnrollmentPausedError:
            assert hurry
            steps += "x"
        else:
            steps += "."
            rows = [
                make_row(f"new-{len(steps)}-{n}", 9, image=b"image 9")
                for n in range(12 if len(steps) == 1 else len(images))
            ]
            store.enroll(
                "lobby", ONE, rows, key=None, now=clock(),
                request_ttl=timedelta(hours=1), then=lambda _: None,
            ).result(10)  # fmt: skip
        return await embed_two(images, hurry=hurry)

    activation = Activation("lobby", model("2"), embed, drop_unusable=False)
    rollover = Rollover(
        store, sites, activation, batch=8, clock=clock, metrics=metrics, monotonic=lambda: seconds
    )
    *_, last = [step async for step in rollover.run()]
    # Refused for a second at most, less than that by a step, and then allowed for as long.
    assert steps == ".xxx.xxx"
    assert [text for text in caplog.messages if "lobby enrolls faster" in text] == caplog.messages
    assert len(caplog.messages) == 1
    assert store.site("lobby").model == TWO
    assert last.embedded == store.count_embedded("lobby", TWO) == 5 + 12 + 6
    store.close()


@pytest.mark.usefixtures("five_of_model_one")
async def test_nothing_is_enrolled_at_the_very_end(open_rooms: Open) -> None:
    async with open_rooms("1") as rooms:
        with rooms.sites.pause_enrollment("lobby"):
            with pytest.raises(EnrollmentPausedError) as error:
                await rooms.gallery.enroll("lobby", ONE, [item("new", 7)])
            assert error.value.retry_after_s == 0.2
            with pytest.raises(EnrollmentPausedError):  # not that it is of another model
                await rooms.gallery.earlier_outcome("lobby", IdempotencyKey("r1", "f"))
            (found,) = await rooms.gallery.search("lobby", ONE, [vector(1)], limit=10)
            assert len(matches(found)) == 5
        await rooms.gallery.enroll("lobby", ONE, [item("new", 7)])


@pytest.mark.usefixtures("five_of_model_one")
async def test_a_rollback_embeds_only_what_is_new(open_rooms: Open) -> None:
    asked: list[bytes] = []

    async def embed_one(images: Sequence[bytes], *, hurry: bool) -> list[Vector | CallError]:
        asked.extend(images)
        return [vector(int(image.split()[1])) for image in images]

    async with open_rooms("1") as rooms:
        assert rooms.store.earlier_model("lobby") is None
        _ = [step async for step in rooms.roll_over(model("2"), embed_two)]
        await rooms.gallery.enroll("lobby", TWO, [item("new", 107)])
        earlier = rooms.store.earlier_model("lobby")
        assert earlier.reference == "m@1"
        _ = [step async for step in rooms.roll_over(model("1"), embed_one, undo=True)]
        assert asked == [b"image 107"]
        (found,) = await rooms.gallery.search("lobby", ONE, [vector(1)], limit=10)
        assert matches(found) == by_hand({"new": 107} | {f"s{n}": n for n in range(5)}, 1)
        assert rooms.store.earlier_model("lobby") is None


@pytest.mark.usefixtures("five_of_model_one")
async def test_a_rollback_after_another_rollover_changes_nothing(open_rooms: Open) -> None:
    async with open_rooms("1") as rooms:
        _ = [step async for step in rooms.roll_over(model("2"), embed_two)]
        earlier = rooms.store.earlier_model("lobby")
        assert earlier.reference == "m@1"
        _ = [step async for step in rooms.roll_over(model("3"), embed_two)]
        with pytest.raises(RolloverRunningError, match="got another model meanwhile"):
            _ = [step async for step in rooms.roll_over(model("1"), embed_two, undo=True)]
        assert (await rooms.gallery.site("lobby")).model == "m@3"
        assert rooms.store.earlier_model("lobby").reference == "m@2"


async def test_the_same_name_with_other_weights_is_another_model(open_rooms: Open) -> None:
    async with open_rooms("1") as rooms:
        await rooms.gallery.create_site("lobby")
    changed = ModelInfo("m", "1", "9" * 64, DIMENSION, 32, 16, "b", "source", "cpu")
    async with open_rooms(changed) as rooms:
        with pytest.raises(ModelMismatchError, match=r"fingerprint 111111111111.*999999999999"):
            await rooms.gallery.search("lobby", "9" * 64, [vector(1)], limit=1)


@pytest.mark.usefixtures("five_of_model_one")
async def test_a_site_whose_index_was_not_changed_after_the_commit_is_mended_by_another_rollover(
    open_rooms: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_rooms("1", batch=9) as rooms:

        def use(_: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patch:
            patch.setattr(rooms.sites, "use", use)
            with pytest.raises(StoreError):
                await consumed(rooms.roll_over(model("2"), embed_two))
        assert (rooms.store.site("lobby").model, rooms.sites.models()) == (TWO, {ONE})
        (last,) = await consumed(rooms.roll_over(model("2"), embed_two))
        assert (last.site.model, rooms.sites.models()) == ("m@2", {TWO})
        await rooms.gallery.enroll("lobby", TWO, [item("next", 109)])
        (found,) = await rooms.gallery.search("lobby", TWO, [vector(101)], limit=10)
        numbers = {f"s{n}": 100 + n for n in range(5)} | {"next": 109}
        assert matches(found) == by_hand(numbers, 101)


class SlowStore(Store):
    """After the commit that binds a site, continues when a test says so."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.asked = threading.Event()
        self.go = threading.Event()

    def bind_site(
        self, site: str, model: str, *, then: Callable[[int], None], **options: Any
    ) -> Future[int | None]:
        def later(dropped: int) -> None:
            self.asked.set()
            assert self.go.wait(10)
            then(dropped)

        return super().bind_site(site, model, then=later, **options)


def rollovers(metrics: Metrics, outcome: str) -> float | None:
    return metrics.registry.get_sample_value("resight_site_switches_total", {"outcome": outcome})


@pytest.mark.usefixtures("five_of_model_one")
async def test_a_call_that_is_cancelled_at_the_last_moment_leaves_nothing_half_done(
    open_rooms: Open, metrics: Metrics
) -> None:
    stores: list[SlowStore] = []

    def open_store(path: Path, metrics: Metrics) -> Store:
        stores.append(SlowStore.open(path, metrics))  # type: ignore[arg-type]
        return stores[0]

    async with open_rooms("1", batch=9, metrics=metrics, open_store=open_store) as rooms:

        async def to_two() -> None:
            async for _ in rooms.roll_over(model("2"), embed_two):
                pass

        running = asyncio.create_task(to_two())
        assert await asyncio.to_thread(stores[0].asked.wait, 10)
        # The database has model 2 already, the index not yet.
        for _ in range(2):
            running.cancel()
            await asyncio.sleep(0.01)
        assert not running.done()
        assert rooms.sites.models() == {ONE}
        with pytest.raises(EnrollmentPausedError):
            await rooms.gallery.enroll("lobby", ONE, [item("late", 9)])
        (found,) = await rooms.gallery.search("lobby", ONE, [vector(1)], limit=10)
        assert matches(found) == by_hand({f"s{n}": n for n in range(5)}, 1)
        stores[0].go.set()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert rooms.sites.models() == {TWO}
        (found,) = await rooms.gallery.search("lobby", TWO, [vector(101)], limit=10)
        assert matches(found) == by_hand({f"s{n}": 100 + n for n in range(5)}, 101)
        await rooms.gallery.enroll("lobby", TWO, [item("next", 9)])
    assert (rollovers(metrics, "done"), rollovers(metrics, "failed")) == (1, None)


@pytest.mark.usefixtures("five_of_model_one")
async def test_a_rollover_that_ends_early_is_counted_and_changes_nothing(
    open_rooms: Open, metrics: Metrics
) -> None:
    async with open_rooms("1", metrics=metrics) as rooms:
        steps = rooms.roll_over(model("2"), embed_two)
        await anext(steps)
        await steps.aclose()
        assert rooms.sites.models() == {ONE}
        assert (rollovers(metrics, "done"), rollovers(metrics, "failed")) == (None, 1)
        assert (await rooms.gallery.site("lobby")).model == "m@1"


@pytest.mark.usefixtures("five_of_model_one")
async def test_a_site_that_is_deleted_during_its_rollover(open_rooms: Open) -> None:
    async with open_rooms("1") as rooms:
        steps = rooms.roll_over(model("2"), embed_two)
        await anext(steps)
        await rooms.gallery.delete_site("lobby", force=True)
        with pytest.raises(SiteNotFoundError):
            _ = [step async for step in steps]
        assert rooms.sites.models() == set()
        with pytest.raises(SiteNotFoundError):
            await rooms.gallery.search("lobby", ONE, [vector(1)], limit=1)


@pytest.mark.usefixtures("five_of_model_one")
async def test_a_site_that_is_deleted_and_made_anew_during_its_rollover_is_not_the_one_that_moves(
    open_rooms: Open,
) -> None:
    """At the same time by the clock, and with crops that the rollover could embed."""
    embedded: list[bytes] = []

    async def embed(images: Sequence[bytes], *, hurry: bool) -> list[Vector | CallError]:
        embedded.extend(images)
        return await embed_two(images, hurry=hurry)

    async with open_rooms("1") as rooms:
        steps = rooms.roll_over(model("2"), embed)
        await anext(steps)
        await rooms.gallery.delete_site("lobby", force=True)
        await rooms.gallery.create_site("lobby")
        await rooms.gallery.enroll("lobby", ONE, [item("new", 7), item("s0", 8)])
        with pytest.raises(SiteNotFoundError, match="made anew"):
            _ = [step async for step in steps]
        assert embedded == [b"image 0", b"image 1"]
        assert (await rooms.gallery.site("lobby")).model == "m@1"
        assert rooms.store.count_embedded("lobby", TWO) == 0
        (found,) = await rooms.gallery.search("lobby", ONE, [vector(1)], limit=10)
        assert matches(found) == by_hand({"new": 7, "s0": 8}, 1)
        # The new one can be moved.
        *_, last = [step async for step in rooms.roll_over(model("2"), embed)]
        assert (last.site.model, last.embedded) == ("m@2", 2)
