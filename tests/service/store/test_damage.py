"""What cannot be read is an error that names the row, never an empty value or a row less."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import DamagedRowError, SightingNotFoundError, StoreUnusableError
from service.jobs.rows import JobRows
from service.operations.metrics import new_metrics
from service.store.damage import DamagedJson, read_json
from service.store.records import IdempotencyKey, NewRow
from service.store.store import Store
from service.types import EVERY_SIGHTING, SightingFilter
from tests.support.galleries import DIMENSION, ONE, TWO

NOW = datetime(2026, 1, 2, tzinfo=UTC)
KEY = IdempotencyKey("r1", "content", ("a", "b", ""))


def test_text_that_is_no_json_is_not_the_absent_value() -> None:
    assert read_json("null") is None
    assert read_json('["a"]') == ["a"]
    assert read_json("{") == DamagedJson("{")
    assert read_json("[" * 100_000).text == "[" * 100_000


@pytest.fixture
def lobby(store: Store, make_row: Callable[..., NewRow]) -> Store:
    """A site of two sightings, `a` and `b`, enrolled by one call."""
    store.register_model(ONE, "m@1")
    store.register_model(TWO, "m@2")
    store.create_site("lobby", ONE, NOW, lambda _: None).result(10)
    gone = SightingNotFoundError("an item that failed")
    store.enroll(
        "lobby", ONE, [make_row("a", 1), make_row("b", 2), gone], key=KEY, now=NOW,
        request_ttl=timedelta(hours=1), then=lambda _: None,
    ).result(10)  # fmt: skip
    return store


@pytest.fixture
def damage(database: Path) -> Callable[..., None]:
    """Change the file behind the store's back."""

    def changed(statement: str, *values: object) -> None:
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute(statement, values)

    return changed


@pytest.fixture
def damaged(database: Path, damage: Callable[..., None]) -> Callable[..., Any]:
    """A block in which one value of a table is another one; the store stays open."""

    @contextmanager
    def changed(table: str, column: str, where: str, value: object) -> Iterator[None]:
        with closing(sqlite3.connect(database)) as connection:
            query = f"SELECT {column} FROM {table} WHERE {where}"  # noqa: S608
            ((before,),) = connection.execute(query).fetchall()
        update = f"UPDATE {table} SET {column} = ? WHERE {where}"  # noqa: S608
        damage(update, value)
        yield
        damage(update, before)

    return changed


DAMAGED_SIGHTINGS = [
    ("attributes", '{"n": "1'),
    ("attributes", "null"),
    ("attributes", '["n"]'),
    ("attributes", '{"n": 1}'),
    ("attributes", 5),
    ("time_us", 2**62),
    ("time_us", "yesterday"),
    ("created_us", -(2**62)),
    ("camera", b"\xff"),
    ("track", b""),
    ("person", b"p"),
]


def test_a_damaged_sighting_fails_each_read_of_it(
    lobby: Store, damaged: Callable[..., Any]
) -> None:
    reads: list[Callable[[], Any]] = [
        lambda: lobby.sighting("lobby", "b"),
        lambda: lobby.sightings_by_id("lobby", ["a", "b"]),
        lambda: lobby.sightings_by_number([1, 2]),
        lambda: lobby.list_sightings("lobby", EVERY_SIGHTING, after="", limit=9),
    ]
    for column, value in DAMAGED_SIGHTINGS:
        with damaged("sightings", column, "row = 2", value):
            for read in reads:
                with pytest.raises(DamagedRowError, match="damaged: sighting b of site lobby has"):
                    read()
            assert lobby.sighting("lobby", "a").id == "a"
    assert [len(read()) for read in reads[1:]] == [2, 2, 2]


EARLY, LATE = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)

FILTERS = [
    ("camera", b"\xff", SightingFilter(cameras=("c1",))),
    ("camera", b"c1", SightingFilter(cameras=("c1",))),
    ("camera", b"c1", SightingFilter(exclude_cameras=("c2",))),
    ("track", b"t1", SightingFilter(exclude_tracks=("t2",))),
    ("person", b"", SightingFilter(persons=("p1",))),
    ("person", b"p1", SightingFilter(persons=("p1", "p2"))),
    ("time_us", 2**62, SightingFilter(end=LATE)),
    ("time_us", -(2**62), SightingFilter(start=EARLY)),
    ("time_us", "yesterday", SightingFilter(end=LATE)),
    ("time_us", b"\xff", SightingFilter(start=EARLY, end=LATE)),
    ("time_us", 0.5, SightingFilter(start=EARLY)),
    ("sighting", b"b", EVERY_SIGHTING),
    ("sighting", b"\xff", SightingFilter(cameras=("c1",))),
]


def test_a_filter_does_not_leave_a_damaged_sighting_out(
    lobby: Store, damaged: Callable[..., Any]
) -> None:
    for column, value, wanted in FILTERS:
        with (
            damaged("sightings", column, "row = 2", value),
            pytest.raises(DamagedRowError, match=r"damaged: sighting .* of site lobby has"),
        ):
            lobby.list_sightings("lobby", wanted, after="", limit=9)


def test_a_filter_leaves_a_damaged_sighting_out_by_its_other_columns(
    lobby: Store, damaged: Callable[..., Any]
) -> None:
    first = SightingFilter(end=NOW - timedelta(days=1) + timedelta(seconds=2), cameras=("c1",))
    with damaged("sightings", "camera", "row = 2", b"c1"):
        (found,) = lobby.list_sightings("lobby", first, after="", limit=9)
    assert found.id == "a"


def test_an_id_that_is_a_blob_is_not_an_absent_sighting(
    lobby: Store, damaged: Callable[..., Any]
) -> None:
    with (
        damaged("sightings", "sighting", "row = 2", b"b"),
        pytest.raises(DamagedRowError, match="sighting b'b' of site lobby has a value of sighting"),
    ):
        lobby.sighting("lobby", "b")


DAMAGED_ENTRIES = [
    *((column, value) for column, value, _ in FILTERS),
    ("track", b"t"),
]


def test_a_damaged_sighting_is_not_indexed(lobby: Store, damaged: Callable[..., Any]) -> None:
    reads: list[Callable[[], Any]] = [
        lambda: list(lobby.index_entries("lobby", ONE, DIMENSION)),
        lambda: list(lobby.embedded_entries("lobby", ONE, DIMENSION, None)),
    ]
    for column, value in DAMAGED_ENTRIES:
        with damaged("sightings", column, "row = 2", value):
            for read in reads:
                with pytest.raises(
                    DamagedRowError, match=r"damaged: sighting .* of site lobby has .*backup"
                ):
                    read()


def test_a_damaged_sighting_is_not_learned_from(lobby: Store, damaged: Callable[..., Any]) -> None:
    rows = JobRows(lobby)
    for column, value in DAMAGED_ENTRIES:
        if column in ("camera", "track", "time_us"):
            with (
                damaged("sightings", column, "row = 2", value),
                pytest.raises(DamagedRowError, match="the sighting in row 2 of site lobby has"),
            ):
                list(rows.kept_crops("lobby"))
    assert [len(chunk) for chunk in rows.kept_crops("lobby")] == [2]


def test_a_crop_that_is_text(lobby: Store, damaged: Callable[..., Any]) -> None:
    reads: list[Callable[[], Any]] = [
        lambda: lobby.crop("lobby", "b"),
        lambda: lobby.crops_without_embedding("lobby", TWO, after=0, limit=9),
        lambda: list(JobRows(lobby).kept_crops("lobby")),
    ]
    for read in reads:
        with (
            damaged("crops", "image", "row = 2", "image"),
            pytest.raises(DamagedRowError, match="of site lobby has a crop that is not a blob"),
        ):
            read()
        read()


DAMAGED_REQUESTS = [
    ("request", b"r1"),
    ("fingerprint", b"content"),
    ("created_us", "yesterday"),
    ("created_us", -(2**62)),
    ("created_us", 2**62),
]


def test_a_damaged_request_is_not_an_absent_one(lobby: Store, damaged: Callable[..., Any]) -> None:
    for column, value in DAMAGED_REQUESTS:
        with (
            damaged("requests", column, "site = 1", value),
            pytest.raises(DamagedRowError, match="damaged: request r1 of site lobby has"),
        ):
            lobby.earlier_outcome("lobby", ONE, KEY, NOW)
    assert lobby.earlier_outcome("lobby", ONE, KEY, NOW + timedelta(seconds=1)) is None


DAMAGED_RESULTS = [
    "[",
    "null",
    "{}",
    '["a"]',
    '[{"id": "a"}]',
    '[{"row": 1}]',
    '[{"row": "x", "replaced": false}]',
    '[{"row": 1, "replaced": false}]',
    '[{"reason": "NO_SUCH_REASON", "message": "x", "metadata": {}}]',
    '[{"reason": "BAD_IMAGE", "message": "x"}]',
    '[{"reason": "BAD_IMAGE", "message": "x", "metadata": "y"}]',
]


def test_a_damaged_result_of_an_earlier_call(lobby: Store, damaged: Callable[..., Any]) -> None:
    for results in DAMAGED_RESULTS:
        with (
            damaged("requests", "answer", "request = 'r1'", results),
            pytest.raises(DamagedRowError, match="damaged: request r1 of site lobby has"),
        ):
            lobby.earlier_outcome("lobby", ONE, KEY, NOW)
    found = lobby.earlier_outcome("lobby", ONE, KEY, NOW)
    assert found is not None
    assert len(found.items) == 3


@pytest.mark.parametrize(
    ("statement", "site"),
    [
        ("DELETE FROM models WHERE reference = 'm@1'", "is bound to a model"),
        ("UPDATE sites SET created_us = 'long ago'", "'long ago' as a time"),
        ("UPDATE models SET reference = x'ff'", "value of reference that is not text"),
    ],
)
def test_a_damaged_site_is_not_left_out_of_the_list(
    lobby: Store, damage: Callable[..., None], statement: str, site: str
) -> None:
    damage(statement)
    for read in (lobby.sites, lambda: lobby.site("lobby")):
        with pytest.raises(DamagedRowError, match=f"damaged: .*site lobby .*{site}"):
            read()


def test_a_site_whose_name_is_a_blob(lobby: Store, damage: Callable[..., None]) -> None:
    damage("UPDATE sites SET site = x'ff'")
    with pytest.raises(DamagedRowError, match=r"site b'\\xff' has a value of site"):
        lobby.sites()


def test_a_sighting_of_no_site_is_not_left_out(
    lobby: Store, damage: Callable[..., None], database: Path
) -> None:
    lobby.close()
    for site in (7, "lobby", b"\1"):
        damage("UPDATE sightings SET site = ? WHERE row = 2", site)
        with pytest.raises(StoreUnusableError, match="sighting in row 2 belongs to no site"):
            Store.open(database, new_metrics())


def test_an_earlier_model_that_is_unknown_is_not_skipped(
    lobby: Store, damage: Callable[..., None]
) -> None:
    three = "3" * 64
    lobby.register_model(three, "m@3")
    for model in (TWO, three):
        lobby.bind_site(
            "lobby", model, unusable=[1, 2], undo=False, now=NOW, then=lambda _: None
        ).result(10)
    damage("DELETE FROM models WHERE reference = 'm@2'")
    with pytest.raises(DamagedRowError, match="earlier model 222222222222 of site lobby"):
        lobby.earlier_model("lobby")


VECTORS = {
    "too short": np.ones(DIMENSION - 1, "<f4").tobytes(),
    "no whole number": b"\0" * (4 * DIMENSION - 1),
    "empty": b"",
    "not a number": np.full(DIMENSION, np.nan, "<f4").tobytes(),
    "infinite": np.full(DIMENSION, np.inf, "<f4").tobytes(),
    "zero": np.zeros(DIMENSION, "<f4").tobytes(),
    "too long": np.full(DIMENSION, 0.6, "<f4").tobytes(),
    "text": "x" * (4 * DIMENSION),
}


def test_a_damaged_vector_is_not_indexed(lobby: Store, damaged: Callable[..., Any]) -> None:
    for vector in VECTORS.values():
        with (
            damaged("embeddings", "vector", "row = 2", vector),
            pytest.raises(DamagedRowError, match=r"sighting b of site lobby has a vector .*backup"),
        ):
            list(lobby.index_entries("lobby", ONE, DIMENSION))
    ((first, second),) = lobby.index_entries("lobby", ONE, DIMENSION)
    assert (first.id, second.id) == ("a", "b")


def test_a_sighting_without_a_vector_is_not_left_out_of_the_index(
    lobby: Store, damage: Callable[..., None]
) -> None:
    damage("DELETE FROM embeddings WHERE row = 2")
    with pytest.raises(DamagedRowError, match="sighting b of site lobby"):
        list(lobby.index_entries("lobby", ONE, DIMENSION))


def test_a_table_that_is_absent_is_not_made_anew(
    lobby: Store, damage: Callable[..., None], database: Path
) -> None:
    lobby.close()
    damage("DROP TABLE crops")
    with pytest.raises(StoreUnusableError, match="lacks the tables crops; restore it"):
        Store.open(database, new_metrics())


def test_a_version_that_is_absent_is_not_taken_for_this_one(
    lobby: Store, damage: Callable[..., None], database: Path
) -> None:
    lobby.close()
    damage("DELETE FROM schema_version")
    with pytest.raises(StoreUnusableError, match="schema version None"):
        Store.open(database, new_metrics())


def test_an_empty_file_is_not_taken_for_a_new_database(database: Path) -> None:
    database.touch()
    with pytest.raises(StoreUnusableError, match="is an empty file; restore it"):
        Store.open(database, new_metrics())
    assert database.stat().st_size == 0
