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
from service.operations.metrics import new_metrics
from service.store.damage import DamagedJson, read_json
from service.store.records import IdempotencyKey, NewRow
from service.store.store import Store
from service.types import EVERY_SIGHTING
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
    ],
)
def test_a_damaged_site_is_not_left_out_of_the_list(
    lobby: Store, damage: Callable[..., None], statement: str, site: str
) -> None:
    damage(statement)
    for read in (lobby.sites, lambda: lobby.site("lobby")):
        with pytest.raises(DamagedRowError, match=f"damaged: site lobby .*{site}"):
            read()


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
}


def test_a_damaged_vector_is_not_indexed(lobby: Store, damaged: Callable[..., Any]) -> None:
    for vector in VECTORS.values():
        with (
            damaged("embeddings", "vector", "row = 2", vector),
            pytest.raises(
                StoreUnusableError, match=r"sighting b of site lobby has a vector .*backup"
            ),
        ):
            list(lobby.index_entries("lobby", ONE, DIMENSION))
    ((first, second),) = lobby.index_entries("lobby", ONE, DIMENSION)
    assert (first.id, second.id) == ("a", "b")


def test_a_sighting_without_a_vector_is_not_left_out_of_the_index(
    lobby: Store, damage: Callable[..., None]
) -> None:
    damage("DELETE FROM embeddings WHERE row = 2")
    with pytest.raises(StoreUnusableError, match="sighting b of site lobby"):
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
