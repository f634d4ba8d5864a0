from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gallery.known_values import MAX_COMPARED, MAX_TOLD, KnownValues, missing
from service.types import SightingFilter, UnknownValues


@given(st.lists(st.sampled_from(["", "a", "b", "c", "é"])), st.data())
def test_counts_follow_what_comes_and_goes(values: list[str], data: st.DataObject) -> None:
    known = KnownValues()
    codes = [known.add(value) for value in values]
    gone = data.draw(st.sets(st.sampled_from(range(len(values))))) if values else set()
    for place in gone:
        known.remove(codes[place])
    left = Counter(value for place, value in enumerate(values) if place not in gone)
    assert {value: count for value, count in known.counts() if count} == dict(left)
    assert sorted(known.names()) == sorted(value for value in left if value)
    assert len(known) == len(known.names())
    assert [value in known for value in ("", "a", "z")] == [False, left["a"] > 0, False]


def told(wanted: SightingFilter, **columns: list[str]) -> list[UnknownValues]:
    known = {field: KnownValues(values) for field, values in columns.items()}
    return [each.told() for each in missing(wanted, known)]


def test_only_values_that_nobody_has_are_told() -> None:
    wanted = SightingFilter(
        cameras=("Cafe", "Hall", "Caff", "Cafe"),
        exclude_cameras=("Hall",),
        persons=("ann",),
        exclude_tracks=("t9",),
    )
    cameras = ["Hall", "Hall", "Door", "Café"]
    assert told(wanted, camera=cameras, person=["ann", ""], track=[]) == [
        UnknownValues("cameras", ("Cafe", "Caff"), 2, ("Café", "Door", "Hall"), 3),
        UnknownValues("exclude_tracks", ("t9",), 1, (), 0),
    ]


def test_lists_that_are_not_given_are_not_looked_at() -> None:
    assert told(SightingFilter(cameras=("a",)), camera=["a"]) == []


@pytest.mark.parametrize(
    ("asked", "first"), [("gate-12", "gate-1"), ("DOOR", "door"), ("caffe", "café"), ("x", "café")]
)
def test_the_most_similar_come_first_whatever_their_case(asked: str, first: str) -> None:
    cameras = ["lift", "door", "café", "gate-1", "zoo"]
    (found,) = told(SightingFilter(cameras=(asked,)), camera=cameras)
    assert found.known[0] == first
    assert sorted(found.known) == sorted(cameras)


def test_equally_close_ones_are_told_by_name() -> None:
    cameras = ["cam3", "cam1", "hall", "cam2"]
    (found,) = told(SightingFilter(cameras=("cam7",)), camera=cameras)
    assert found.known == ("cam1", "cam2", "cam3", "hall")


def test_what_is_told_is_bounded() -> None:
    asked = tuple(f"no{n}" for n in range(1000))
    cameras = [f"c{n:04d}" for n in range(MAX_COMPARED)]
    (found,) = told(SightingFilter(cameras=asked), camera=cameras)
    assert (found.values, found.count) == (asked[:MAX_TOLD], 1000)
    assert (len(found.known), found.known_count) == (MAX_TOLD, MAX_COMPARED)
    (found,) = told(SightingFilter(cameras=("c00001",)), camera=[*cameras, "one more"])
    assert (found.known, found.known_count) == ((), MAX_COMPARED + 1)
