from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from unittest import mock

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.gallery.index import Hit, VectorIndex
from service.gallery.vectors import PART
from service.store.records import IndexEntry
from service.store.times import from_us, to_us
from service.types import EVERY_SIGHTING, CameraSummary, SightingFilter

DIMENSION = 8
START = datetime(2026, 1, 1, tzinfo=UTC)


def unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def make_entries(count: int, seed: int = 0) -> list[IndexEntry]:
    rng = np.random.default_rng(seed)
    vectors = unit(rng.normal(size=(count, DIMENSION)))
    return [
        IndexEntry(
            number=number,
            id=f"s{number:05d}",
            vector=vectors[number],
            camera=f"c{rng.integers(4)}",
            time_us=to_us(START + timedelta(seconds=int(rng.integers(100)))),
            track=f"t{rng.integers(5)}" if rng.random() < 0.5 else "",
            person=f"p{rng.integers(3)}" if rng.random() < 0.5 else "",
        )
        for number in range(count)
    ]


def passes(entry: IndexEntry, wanted: SightingFilter) -> bool:
    return (
        (not wanted.cameras or entry.camera in wanted.cameras)
        and entry.camera not in wanted.exclude_cameras
        and (wanted.start is None or entry.time_us >= to_us(wanted.start))
        and (wanted.end is None or entry.time_us < to_us(wanted.end))
        and (not wanted.persons or entry.person in wanted.persons)
        and entry.track not in wanted.exclude_tracks
    )


def slow_search(
    entries: list[IndexEntry], query: NDArray[np.float32], limit: int, wanted: SightingFilter
) -> list[Hit]:
    hits = [
        Hit(
            entry.number,
            entry.id,
            float(
                np.float32(
                    np.clip(
                        sum(float(a) * float(b) for a, b in zip(entry.vector, query, strict=True)),
                        -1,
                        1,
                    )
                )
            ),
        )
        for entry in entries
        if passes(entry, wanted)
    ]
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))[:limit]


def assert_same(found: list[Hit], right: list[Hit]) -> None:
    assert [hit.id for hit in found] == [hit.id for hit in right]
    np.testing.assert_allclose(
        [hit.score for hit in found], [hit.score for hit in right], atol=2e-7
    )


def search(
    index: VectorIndex,
    query: NDArray[np.float32],
    limit: int,
    wanted: SightingFilter = EVERY_SIGHTING,
    exclude: str | None = None,
) -> list[Hit]:
    (hits,) = index.search(query[None], limit, wanted, [exclude])
    return hits


def assert_known(index: VectorIndex, entries: list[IndexEntry]) -> None:
    """What the index says of cameras, tracks and persons, against these sightings alone."""
    times: dict[str, list[int]] = {}
    for entry in entries:
        times.setdefault(entry.camera, []).append(entry.time_us)
    assert index.cameras() == [
        CameraSummary(camera, len(seen), from_us(min(seen)), from_us(max(seen)))
        for camera, seen in sorted(times.items())
    ]
    names = tuple(f"{kind}{n}" for kind in "cpt" for n in range(5))
    wanted = SightingFilter(cameras=names, persons=names, exclude_tracks=names)
    columns = {"cameras": "camera", "persons": "person", "exclude_tracks": "track"}
    right = []
    for field, column in columns.items():
        held = {getattr(entry, column) for entry in entries} - {""}
        unknown = tuple(name for name in names if name not in held)
        right.append((field, unknown, tuple(sorted(held))))
    assert [(each.field, each.values, each.known) for each in index.missing(wanted)] == right


filters = st.builds(
    SightingFilter,
    cameras=st.lists(st.sampled_from(["c0", "c1", "c2", "c9"]), max_size=2).map(tuple),
    exclude_cameras=st.lists(st.sampled_from(["c0", "c3", "c9"]), max_size=2).map(tuple),
    start=st.none() | st.integers(0, 50).map(lambda s: START + timedelta(seconds=s)),
    end=st.none() | st.integers(50, 100).map(lambda s: START + timedelta(seconds=s)),
    persons=st.lists(st.sampled_from(["p0", "p1", "p9"]), max_size=2).map(tuple),
    exclude_tracks=st.lists(st.sampled_from(["t0", "t1", "t9"]), max_size=2).map(tuple),
)


@settings(max_examples=60)
@given(
    part=st.sampled_from([8, 16, PART]),
    count=st.integers(0, 80),
    seed=st.integers(0, 5),
    limit=st.integers(1, 100),
    wanted=filters,
    queries=st.integers(1, 3),
)
def test_search_equals_the_slow_one(
    part: int, count: int, seed: int, limit: int, wanted: SightingFilter, queries: int
) -> None:
    entries = make_entries(count, seed)
    index = VectorIndex(DIMENSION)
    rows = unit(np.random.default_rng(seed + 100).normal(size=(queries, DIMENSION)))
    with mock.patch("service.gallery.vectors.PART", part):
        index.upsert(entries)
        found = index.search(rows, limit, wanted, [None] * queries)
    for query, hits in zip(rows, found, strict=True):
        assert_same(hits, slow_search(entries, query, limit, wanted))


@settings(max_examples=40)
@given(
    part=st.sampled_from([8, PART]),
    seed=st.integers(0, 1000),
    steps=st.lists(
        st.tuples(st.sampled_from(["upsert", "delete"]), st.integers(0, 15), st.integers(1, 6)),
        max_size=25,
    ),
)
def test_any_history_gives_what_a_fresh_index_gives(
    part: int, seed: int, steps: list[tuple[str, int, int]]
) -> None:
    index = VectorIndex(DIMENSION)
    truth: dict[str, IndexEntry] = {}
    query = unit(np.random.default_rng(seed).normal(size=(1, DIMENSION)))[0]
    with mock.patch("service.gallery.vectors.PART", part):
        for number, (step, start, count) in enumerate(steps):
            fresh = make_entries(16, seed + number)[start : start + count]
            if step == "upsert":
                index.upsert(fresh)
                truth |= {entry.id: entry for entry in fresh}
            else:
                for entry in fresh:
                    index.delete(entry.id)
                    truth.pop(entry.id, None)
        found = search(index, query, 20)
    assert len(index) == len(truth)
    assert_same(found, slow_search(list(truth.values()), query, 20, EVERY_SIGHTING))
    assert_known(index, list(truth.values()))


@pytest.mark.usefixtures("parts_of_8")
def test_a_site_of_many_parts() -> None:
    entries = make_entries(3000)
    index = VectorIndex(DIMENSION)
    for start in range(0, 3000, 37):
        index.upsert(entries[start : start + 37])
    for entry in entries[:2999:3]:
        index.delete(entry.id)
    kept = [entry for number, entry in enumerate(entries) if number % 3]
    wanted = SightingFilter(cameras=("c2",))
    for limit in (1, 7, 40, 3000):
        found = search(index, entries[4].vector, limit, wanted)
        assert_same(found, slow_search(kept, entries[4].vector, limit, wanted))
    np.testing.assert_array_equal(index.vector(entries[4].id), entries[4].vector)


def test_three_sightings_by_hand() -> None:
    index = VectorIndex(2)
    base = IndexEntry(1, "a", np.array([1, 0], np.float32), "c1", 0, "", "")
    index.upsert(
        [
            base,
            replace(base, id="b", vector=np.array([0.6, 0.8], np.float32)),
            replace(base, id="c", vector=np.array([-1, 0], np.float32)),
        ]
    )
    found = search(index, np.array([1, 0], np.float32), 3)
    assert [(hit.id, hit.score) for hit in found] == [
        ("a", 1.0),
        ("b", pytest.approx(0.6)),
        ("c", -1.0),
    ]


def test_equal_scores_are_ordered_by_id_also_at_the_last_place() -> None:
    same = make_entries(1)[0]
    entries = [replace(same, id=f"x{number:04d}") for number in range(500)]
    np.random.default_rng(1).shuffle(entries)
    index = VectorIndex(DIMENSION)
    index.upsert(entries)
    for limit in (1, 3, 17, 499):
        found = search(index, same.vector, limit)
        assert [hit.id for hit in found] == [f"x{number:04d}" for number in range(limit)]


def test_an_id_enrolled_again_is_there_once_with_its_new_vector() -> None:
    first, second = make_entries(2)
    index = VectorIndex(DIMENSION)
    index.upsert([first])
    index.upsert([replace(second, id=first.id)])
    assert len(index) == 1
    (hit,) = search(index, second.vector, 10)
    assert (hit.number, hit.id) == (second.number, first.id)
    assert hit.score == pytest.approx(1.0)
    np.testing.assert_array_equal(index.vector(first.id), second.vector)


def test_the_same_id_twice_in_one_call_is_counted_once() -> None:
    first, second, third = make_entries(3)
    index = VectorIndex(DIMENSION)
    twice = [replace(first, camera="a"), replace(second, camera="a"), replace(first, camera="b")]
    for entries in (twice, [replace(first, camera="c"), replace(third, camera="a"), *twice]):
        index.upsert(entries)
        counts = {each.camera: each.sightings for each in index.cameras()}
    assert counts == {"a": 2, "b": 1}


def test_the_same_id_twice_in_one_call_is_there_once() -> None:
    first, second = make_entries(2)
    index = VectorIndex(DIMENSION)
    index.upsert([first, replace(second, id=first.id)])
    assert [hit.id for hit in search(index, second.vector, 10)] == [first.id]


def test_deletions_change_no_answer_about_the_others() -> None:
    entries = make_entries(3000)
    index = VectorIndex(DIMENSION)
    index.upsert(entries)
    for entry in entries[::2]:
        index.delete(entry.id)
    assert len(index) == 1500
    query = entries[1].vector
    wanted = SightingFilter(exclude_cameras=("c1",))
    assert_same(search(index, query, 50, wanted), slow_search(entries[1::2], query, 50, wanted))
    index.upsert(entries[:10])
    kept = [*entries[1::2], *entries[:10:2]]
    assert_same(search(index, query, 50), slow_search(kept, query, 50, EVERY_SIGHTING))


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many vectors each call of faiss adds."""
    numbers: list[int] = []

    class Watched(faiss.IndexFlatIP):  # type: ignore[misc] # faiss has no types
        def add(self, x: NDArray[np.float32]) -> None:
            numbers.append(len(x))
            super().add(x)

    monkeypatch.setattr(faiss, "IndexFlatIP", Watched)
    return numbers


@pytest.fixture
def parts_of_8(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a site were large."""
    monkeypatch.setattr("service.gallery.vectors.PART", 8)


def test_no_write_copies_what_it_does_not_change(copied: list[int]) -> None:
    entries = make_entries(8192)
    index = VectorIndex(DIMENSION)
    index.upsert(entries)
    copied.clear()
    for start in range(0, 8192, 64):
        index.upsert(entries[start : start + 64])
    for entry in entries[:6000]:
        index.delete(entry.id)
    assert not copied, "others wait for it"
    assert index.room == 8192


def test_memory_is_given_back_where_most_is_deleted(copied: list[int]) -> None:
    entries = make_entries(8192)
    index = VectorIndex(DIMENSION)
    index.upsert(entries)
    copied.clear()
    for entry in entries[:7000]:
        index.delete(entry.id)
    assert index.room <= 2048
    assert sum(copied) <= 7000 / 3
    query = entries[-1].vector
    assert_same(search(index, query, 9), slow_search(entries[7000:], query, 9, EVERY_SIGHTING))
    for entry in entries:
        index.delete(entry.id)
    assert search(index, query, 9) == []
    index.upsert(entries[:5])
    assert len(search(index, query, 9)) == 5


def test_one_sighting_can_be_left_out_per_query() -> None:
    entries = make_entries(30)
    index = VectorIndex(DIMENSION)
    index.upsert(entries)
    rows = np.stack([entries[0].vector, entries[1].vector])
    found = index.search(rows, 5, EVERY_SIGHTING, [entries[0].id, None])
    others = [entry for entry in entries if entry.id != entries[0].id]
    assert_same(found[0], slow_search(others, rows[0], 5, EVERY_SIGHTING))
    assert_same(found[1], slow_search(entries, rows[1], 5, EVERY_SIGHTING))


def test_answers_do_not_depend_on_the_company() -> None:
    entries = make_entries(400)
    index = VectorIndex(DIMENSION)
    index.upsert(entries)
    rows = np.stack([entry.vector for entry in entries[:40]])
    together = index.search(rows, 10, EVERY_SIGHTING, [None] * 40)
    alone = [search(index, row, 10) for row in rows]
    assert together == alone


def test_unknown_ids() -> None:
    index = VectorIndex(DIMENSION)
    index.delete("nobody")
    assert index.vector("nobody") is None
    assert search(index, make_entries(1)[0].vector, 3) == []


def test_a_vector_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="vectors of 8 numbers, not 4"):
        VectorIndex(4).upsert(make_entries(1))


def test_searches_and_changes_at_the_same_time() -> None:
    entries = make_entries(2000)
    index = VectorIndex(DIMENSION)
    index.upsert(entries[:100])
    faults: list[BaseException] = []
    done = threading.Event()

    def look() -> None:
        try:
            while not done.is_set():
                hits = search(index, entries[0].vector, 20)
                assert (hits[0].number, hits[0].id) == (0, entries[0].id)
                assert hits[0].score == pytest.approx(1.0)
                assert len({hit.id for hit in hits}) == 20
        except BaseException as error:  # noqa: BLE001
            faults.append(error)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for start in range(100, 2000, 50):
        index.upsert(entries[start : start + 50])
        for entry in entries[start : start + 25]:
            index.delete(entry.id)
    done.set()
    for thread in threads:
        thread.join(10)
    assert not faults
    assert len(index) == 100 + 38 * 25
