"""Databases of before, whose names are in another Unicode form than NFC."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from sqlalchemy.exc import OperationalError

from service.errors import DamagedRowError, StoreUnusableError
from service.operations.metrics import new_metrics
from service.store import composing
from service.store.records import IdempotencyKey, NewRow
from service.store.store import Store
from service.types import EVERY_SIGHTING, SightingFilter
from tests.support.galleries import DIMENSION, ONE

NOW = datetime(2026, 1, 2, tzinfo=UTC)
KEY = IdempotencyKey("r1", "sha256 of what was sent", ("a", ""))
NFC, NFD = "Café", normalize("NFD", "Café")


def enroll(store: Store, *rows: NewRow, key: IdempotencyKey | None = None) -> None:
    store.enroll(
        "lobby", ONE, rows, key=key, now=NOW, request_ttl=timedelta(hours=1), then=lambda _: None
    ).result(10)


@pytest.fixture
def old(database: Path, make_row: Callable[..., NewRow]) -> Path:
    """A database as a server of before left it: two sightings of one request, one in NFD."""
    store = Store.open(database, new_metrics())
    store.register_model(ONE, "m@1")
    store.create_site("lobby", ONE, NOW, lambda _: None).result(10)
    named = {"camera": NFD, "track": f"t {NFD}", "person": f"p {NFD}"}
    enroll(
        store,
        make_row("a", 1, **named, attributes={"file": f"{NFD}/a.png", NFD: "x"}),
        make_row("b", 2, camera="Hall"),
        key=KEY,
    )
    store.close()
    change(database, "DROP TABLE composed")
    return database


def change(database: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(statement, values)


@pytest.fixture
def reopened(old: Path) -> Iterator[Store]:
    store = Store.open(old, new_metrics())
    yield store
    store.close()


def test_names_of_before_are_found_by_filters_and_in_the_index(reopened: Store) -> None:
    for wanted in (
        SightingFilter(cameras=(NFD,)),
        SightingFilter(persons=(f"p {NFC}",)),
        SightingFilter(exclude_cameras=("Hall",)),
    ):
        (found,) = reopened.list_sightings("lobby", wanted, after="", limit=9)
        assert (found.camera, found.track, found.person) == (NFC, f"t {NFC}", f"p {NFC}")
        assert found.attributes == {"file": f"{NFC}/a.png", NFC: "x"}
    without = SightingFilter(exclude_cameras=(NFC,))
    (other,) = reopened.list_sightings("lobby", without, after="", limit=9)
    assert other.id == "b"
    ((first, _),) = reopened.index_entries("lobby", ONE, DIMENSION)
    assert (first.camera, first.track, first.person) == (NFC, f"t {NFC}", f"p {NFC}")


def test_a_retry_of_a_request_of_before_stores_nothing(reopened: Store) -> None:
    outcome = reopened.earlier_outcome("lobby", ONE, KEY, NOW)
    assert outcome is not None
    assert outcome.repeated
    assert [getattr(item, "id", None) for item in outcome.items] == ["a", "b"]


def test_only_what_is_newer_is_looked_at(
    old: Path, make_row: Callable[..., NewRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    Store.open(old, new_metrics()).close()
    looked: list[int] = []
    in_nfc = composing._in_nfc

    def watched(row: Any) -> Mapping[str, object]:
        looked.append(row.row)
        return in_nfc(row)

    monkeypatch.setattr(composing, "_in_nfc", watched)
    store = Store.open(old, new_metrics())
    enroll(store, make_row("c", 3, camera=NFD), make_row("d", 4))  # as a server of before does
    store.close()
    assert looked == []
    store = Store.open(old, new_metrics())
    assert looked == [3]
    assert store.sighting("lobby", "c").camera == NFC
    store.close()


def test_in_portions(
    old: Path, make_row: Callable[..., NewRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(old, new_metrics())
    enroll(store, *(make_row(f"s{n}", n, camera=NFD if n % 2 else "c") for n in range(7)))
    store.close()
    monkeypatch.setattr(composing, "_CHUNK", 2)
    store = Store.open(old, new_metrics())
    found = store.list_sightings("lobby", EVERY_SIGHTING, after="c", limit=99)
    assert [seen.camera for seen in found] == ["c", NFC, "c", NFC, "c", NFC, "c"]
    store.close()


def test_of_a_key_in_both_forms_nothing_is_lost(old: Path) -> None:
    both = json.dumps({NFD: NFD, NFC: "2"})
    change(old, "UPDATE sightings SET attributes = ? WHERE sighting = 'b'", both)
    store = Store.open(old, new_metrics())
    assert store.sighting("lobby", "b").attributes == {NFD: NFC, NFC: "2"}
    store.close()


def test_damaged_values_are_left_for_the_reader_of_the_row(old: Path) -> None:
    change(old, "UPDATE sightings SET camera = ? WHERE sighting = 'b'", NFD.encode())
    change(old, "UPDATE sightings SET attributes = '{\"\\u0301' WHERE sighting = 'a'")
    change(old, "UPDATE sightings SET person = CAST(x'65cc' AS TEXT) WHERE sighting = 'a'")
    store = Store.open(old, new_metrics())
    with pytest.raises(DamagedRowError):
        store.sighting("lobby", "b")
    store.close()
    change(old, "UPDATE sightings SET person = '', attributes = '{}' WHERE sighting = 'a'")
    store = Store.open(old, new_metrics())
    assert store.sighting("lobby", "a").camera == NFC
    store.close()


@pytest.mark.parametrize("problem", ["database or disk is full", "disk I/O error"])
def test_only_a_full_disk_does_not_keep_the_server_from_starting(
    problem: str, old: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(connection: object) -> None:
        raise OperationalError("UPDATE", None, sqlite3.OperationalError(problem))

    monkeypatch.setattr(composing, "_compose_chunk", fail)
    if "full" not in problem:
        with pytest.raises(StoreUnusableError, match=problem):
            Store.open(old, new_metrics())
        return
    store = Store.open(old, new_metrics())
    assert "free space, and start again" in caplog.text
    store.close()
    monkeypatch.undo()
    store = Store.open(old, new_metrics())
    assert store.sighting("lobby", "a").camera == NFC
    store.close()
