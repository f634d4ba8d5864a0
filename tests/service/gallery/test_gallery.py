from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from service.errors import (
    BadImageError,
    BadNameError,
    DuplicateIdError,
    RequestIdReusedError,
    SightingNotFoundError,
    SiteExistsError,
    SiteNotFoundError,
)
from service.gallery.gallery import Gallery
from service.gallery.index import VectorIndex
from service.gallery.search import search
from service.operations.metrics import Metrics
from service.store.records import IdempotencyKey
from service.store.store import Store
from service.types import (
    CameraSummary,
    Enrolled,
    SightingFilter,
    UnknownValues,
)
from tests.support.galleries import DIMENSION, ONE, Open, by_hand, item, matches, vector

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


async def test_enroll_then_search(open_gallery: Open, clock: Any) -> None:
    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        results = await gallery.enroll("lobby", ONE, [item(f"s{n}", n) for n in range(6)])
        assert [result.sighting.id for result in results] == [f"s{n}" for n in range(6)]
        assert not any(result.replaced for result in results)
        assert results[0].sighting.time == results[0].sighting.created == clock.now
        (found,) = await gallery.search("lobby", ONE, [vector(2)], limit=10)
        assert matches(found) == by_hand({f"s{n}": n for n in range(6)}, 2)
        assert found[0].sighting == results[2].sighting
        (found,) = await gallery.search(
            "lobby", ONE, [vector(2)], limit=1, wanted=SightingFilter(exclude_cameras=("c2",))
        )
        assert matches(found) == by_hand({"s0": 0, "s1": 1, "s3": 3, "s4": 4}, 2)[:1]


async def test_ids_are_made_where_none_is_given(open_gallery: Open) -> None:
    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        results = await gallery.enroll("lobby", ONE, [item("", 1), item("", 1), item("own", 2)])
        assert [r.sighting.id for r in results] == ["made-001", "made-002", "own"]


async def test_errors_pass_through_in_their_place(open_gallery: Open) -> None:
    bad = BadImageError("broken")
    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        results = await gallery.enroll(
            "lobby", ONE, [item("a", 1), bad, item("a", 2), item("b", 3)]
        )
        assert isinstance(results[0], Enrolled)
        assert results[1] is bad
        assert isinstance(results[2], DuplicateIdError)
        assert isinstance(results[3], Enrolled)
        (found,) = await gallery.search("lobby", ONE, [vector(1)], limit=10)
        assert matches(found) == by_hand({"a": 1, "b": 3}, 1)


async def test_search_by_sighting_leaves_itself_out(open_gallery: Open) -> None:
    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        await gallery.enroll("lobby", ONE, [item(f"s{n}", n) for n in range(4)])
        found = await gallery.search("lobby", ONE, ["s1", "nobody", vector(1)], limit=10)
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
        await gallery.enroll("lobby", ONE, [item(f"s{n}", n) for n in range(3)])
        assert searched() == 3
        await gallery.delete_sighting("lobby", "s1")
        assert searched() == 2
        (found,) = await gallery.search("lobby", ONE, [vector(1)], limit=10)
        assert matches(found) == by_hand({"s0": 0, "s2": 2}, 1)
        with pytest.raises(SightingNotFoundError):
            await gallery.delete_sighting("lobby", "s1")
        await gallery.delete_site("lobby", force=True)
        assert searched() is None
        with pytest.raises(SiteNotFoundError):
            await gallery.search("lobby", ONE, [vector(1)], limit=10)


async def test_the_index_can_always_be_rebuilt(open_gallery: Open) -> None:
    """Whatever happened, a fresh index of the same store gives the same answers."""
    rng = np.random.default_rng(0)
    queries = [vector(1000 + n) for n in range(5)]
    wanted = SightingFilter(exclude_cameras=("c1",))

    async def ask(gallery: Gallery) -> list[Any]:
        return [
            await gallery.search("lobby", ONE, queries, limit=limit, wanted=filter_)
            for limit in (3, 50)
            for filter_ in (SightingFilter(), wanted)
        ]

    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        for step in range(20):
            numbers = rng.choice(30, 5, replace=False)
            await gallery.enroll("lobby", ONE, [item(f"s{n}", int(n) + step) for n in numbers])
            if step % 3 == 0:
                await gallery.delete_sighting("lobby", f"s{numbers[0]}")
        before = await ask(gallery)
    async with open_gallery() as gallery:
        assert await ask(gallery) == before


def cameras_by_hand(held: dict[str, tuple[str, datetime]]) -> list[CameraSummary]:
    """held: camera and time of each sighting."""
    times: dict[str, list[datetime]] = {}
    for camera, moment in held.values():
        times.setdefault(camera, []).append(moment)
    return [CameraSummary(c, len(t), min(t), max(t)) for c, t in sorted(times.items())]


async def test_cameras_are_counted_whatever_happened(open_rooms: Open) -> None:
    """Enrolled, replaced by another camera, deleted, started again; by index and by database."""
    rng = np.random.default_rng(0)
    held: dict[str, tuple[str, datetime]] = {}
    async with open_rooms() as rooms:
        await rooms.gallery.create_site("lobby")
        assert await rooms.gallery.cameras("lobby") == []
        for step in range(8):
            chosen = rng.choice(12, 4, replace=False)
            moments = [LONG_AGO + timedelta(seconds=int(rng.integers(100))) for _ in chosen]
            named = [
                item(f"s{n}", step, camera=f"c{rng.integers(3)}", time=moment)
                for n, moment in zip(chosen, moments, strict=True)
            ]
            await rooms.gallery.enroll("lobby", ONE, named)
            held |= {new.id: (new.camera, new.time or LONG_AGO) for new, _ in named}
            await rooms.gallery.delete_sighting("lobby", f"s{chosen[0]}")
            del held[f"s{chosen[0]}"]
            assert await rooms.gallery.cameras("lobby") == cameras_by_hand(held)
            assert rooms.store.cameras("lobby") == cameras_by_hand(held)
    async with open_rooms() as rooms:
        assert await rooms.gallery.cameras("lobby") == cameras_by_hand(held)
    async with open_rooms("2") as rooms:  # the site's model is not loaded
        assert not (await rooms.gallery.site("lobby")).ready
        assert await rooms.gallery.cameras("lobby") == cameras_by_hand(held)


@pytest.mark.parametrize("own", ["1", "2"])
async def test_values_of_a_filter_that_nobody_has(open_rooms: Open, own: str) -> None:
    """Whether the site's model is loaded or not."""
    async with open_rooms() as rooms:
        await rooms.gallery.create_site("lobby")
        items = [
            item("a", 1, camera="Café", person="Ann"),
            item("b", 2, camera="Hall", track="t1"),
            item("gone", 3, camera="Gone", track="t2"),
        ]
        await rooms.gallery.enroll("lobby", ONE, items)
        await rooms.gallery.delete_sighting("lobby", "gone")
    wanted = SightingFilter(
        cameras=("Cafe\u0301", "Hall"),
        exclude_cameras=("Cafe", "Gone"),
        persons=("ann",),
        exclude_tracks=("t2",),
    )
    async with open_rooms(own) as rooms:
        assert await rooms.gallery.unknown_values("lobby", wanted) == [
            UnknownValues("exclude_cameras", ("Cafe", "Gone"), 2, ("Café", "Hall"), 2),
            UnknownValues("persons", ("ann",), 1, ("Ann",), 1),
            UnknownValues("exclude_tracks", ("t2",), 1, ("t1",), 1),
        ]
        with pytest.raises(SiteNotFoundError):
            await rooms.gallery.unknown_values("nowhere", wanted)
        with pytest.raises(SiteNotFoundError):
            await rooms.gallery.cameras("nowhere")
        with pytest.raises(BadNameError):
            await rooms.gallery.cameras("no/site")


async def test_concurrent_changes_end_in_the_same_state_as_the_store(open_gallery: Open) -> None:
    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        await asyncio.gather(
            *(gallery.enroll("lobby", ONE, [item(f"s{n % 5}", n)]) for n in range(60))
        )
        before = await gallery.search("lobby", ONE, [vector(0)], limit=10)
        assert len(before[0]) == 5
    async with open_gallery() as gallery:
        assert await gallery.search("lobby", ONE, [vector(0)], limit=10) == before


@pytest.mark.slow
async def test_a_sighting_that_is_being_replaced_never_passes_a_filter_of_its_old_crop(
    open_gallery: Open,
) -> None:
    ids = [f"s{n}" for n in range(15)]
    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        await gallery.enroll("lobby", ONE, [item(name, 0, camera="c1") for name in ids])
        done = asyncio.Event()

        async def replace() -> None:
            for step in range(60):
                camera = f"c{1 + step % 2}"
                await gallery.enroll(
                    "lobby", ONE, [item(name, step, camera=camera) for name in ids]
                )
            done.set()

        async def look() -> None:
            wanted = SightingFilter(cameras=("c1",))
            while not done.is_set():
                (found,) = await gallery.search("lobby", ONE, [vector(0)], limit=20, wanted=wanted)
                assert {match.sighting.camera for match in found} <= {"c1"}

        await asyncio.gather(replace(), look(), look())


async def test_a_hit_of_a_replaced_row_is_not_a_match(open_gallery: Open, store: Store) -> None:
    """The moment between the commit and the index, held still: camera c1 became c2."""
    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        await gallery.enroll("lobby", ONE, [item("s0", 0, camera="c1")])
        ((old,),) = store.index_entries("lobby", ONE, DIMENSION)
        await gallery.enroll("lobby", ONE, [item("s0", 1, camera="c2")])
    index = VectorIndex(DIMENSION)
    index.upsert([old])
    (found,) = search(index, store, "lobby", [vector(0)], 5, SightingFilter(cameras=("c1",)))
    assert found == []


async def test_a_repeated_request_changes_nothing(open_gallery: Open) -> None:
    request = IdempotencyKey("r1", "content")
    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        assert await gallery.earlier_outcome("lobby", request) is None
        first = await gallery.enroll("lobby", ONE, [item("", 1), BadImageError("x")], request)
        assert (await gallery.earlier_outcome("lobby", request))[0] == first[0]
        again = await gallery.enroll("lobby", ONE, [item("made-001", 2), item("", 3)], request)
        assert again[0] == first[0]
        assert isinstance(again[1], BadImageError)
        assert (await gallery.site("lobby")).sightings == 1
        (found,) = await gallery.search("lobby", ONE, [vector(1)], limit=10)
        assert matches(found) == by_hand({"made-001": 1}, 1)
        with pytest.raises(RequestIdReusedError):
            await gallery.enroll("lobby", ONE, [item("", 2)], IdempotencyKey("r1", "other"))
        await gallery.delete_sighting("lobby", "made-001")
        (gone, _) = await gallery.earlier_outcome("lobby", request)
        assert isinstance(gone, SightingNotFoundError)


@pytest.mark.parametrize("event", ["start", "delete_sighting", "delete_site"])
async def test_old_request_ids_are_forgotten(
    open_gallery: Open, store: Store, clock: Any, event: str
) -> None:
    old = IdempotencyKey("r", "c")
    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        await gallery.create_site("yard")
        await gallery.enroll("lobby", ONE, [item("a", 1)], old)
        clock.forward(hours=2)
        assert await gallery.earlier_outcome("lobby", old) is None
        assert store.earlier_outcome("lobby", ONE, old, LONG_AGO) is not None
        if event == "delete_sighting":
            await gallery.delete_sighting("lobby", "a")
        elif event == "delete_site":
            await gallery.delete_site("yard", force=False)
        else:
            gallery.load()
        assert store.earlier_outcome("lobby", ONE, old, LONG_AGO) is None


async def test_simultaneous_repeats_enroll_once(open_gallery: Open) -> None:
    async with open_gallery() as gallery:
        await gallery.create_site("lobby")
        answers = await asyncio.gather(
            *(
                gallery.enroll("lobby", ONE, [item("", 1)], IdempotencyKey("r", "c"))
                for _ in range(8)
            )
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
        await gallery.enroll("lobby", ONE, [item("kept", 1)])
        assert await gallery.crop("lobby", "kept") == b"image 1"
        assert (await gallery.sighting("lobby", "kept")).crop_kept
    async with open_gallery(keep_crops=False) as gallery:
        await gallery.enroll("lobby", ONE, [item("not", 2)])
        assert await gallery.crop("lobby", "not") is None
        assert not (await gallery.sighting("lobby", "not")).crop_kept
