from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import service.store.store
from service.errors import DamagedRowError, SiteNotFoundError
from service.gallery.live_sites import LiveSites
from service.gallery.next_index import NextIndex
from service.operations.metrics import Metrics
from service.store.records import EnrollOutcome, NewRow
from service.store.store import Store
from service.types import EVERY_SIGHTING
from tests.support.galleries import DIMENSION, ONE, TWO, model

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def sites(store: Store, metrics: Metrics) -> LiveSites:
    return LiveSites(store, metrics)


@pytest.fixture
def lobby(store: Store, sites: LiveSites, make_row: Callable[..., NewRow]) -> Store:
    """A site of six sightings, the first five of which have vectors of model 2, too."""
    store.register_model(ONE, "m@1")
    store.register_model(TWO, "m@2")
    store.create_site("lobby", ONE, NOW, lambda _: sites.add_empty("lobby", model("1"))).result(10)
    enroll(store, sites, *(make_row(f"s{n}", n) for n in range(6)))
    embed(store, range(1, 6))
    return store


def enroll(store: Store, sites: LiveSites, *rows: NewRow) -> None:
    def committed(outcome: EnrollOutcome) -> None:
        entries = [row.entry(n) for row, n in zip(rows, outcome.numbers, strict=True)]
        sites.upsert("lobby", entries)

    store.enroll(
        "lobby", ONE, rows, key=None, now=NOW, request_ttl=timedelta(hours=1), then=committed
    ).result(10)


def delete(store: Store, sites: LiveSites, sighting: str) -> None:
    store.delete_sighting("lobby", sighting, lambda _: sites.delete("lobby", sighting)).result(10)


def embed(store: Store, rows: Sequence[int]) -> None:
    vectors = {row: unit(row) for row in rows}
    store.add_embeddings(TWO, vectors).result(10)


def unit(row: int) -> Any:
    made = np.zeros(DIMENSION, np.float32)
    made[row % DIMENSION] = 1
    return made


def held(following: NextIndex) -> dict[str, int]:
    """Number of the row by id, of all that are in the index."""
    found = following.index.search(np.ones((1, DIMENSION), np.float32), 99, EVERY_SIGHTING, [None])
    return {hit.id: hit.number for hit in found[0]}


def test_it_follows_the_site(
    lobby: Store, sites: LiveSites, make_row: Callable[..., NewRow]
) -> None:
    following = sites.prepare("lobby", model("2"))
    with sites.preparing(following):
        following.follow()
        assert held(following) == {f"s{n}": n + 1 for n in range(5)}
        assert following.checked.lacking == (6,)
        delete(lobby, sites, "s0")
        enroll(lobby, sites, make_row("s1", 7), make_row("new", 8))
        embed(lobby, [6, 8])
        following.follow()
        assert held(following) == {"s2": 3, "s3": 4, "s4": 5, "s5": 6, "new": 8}
        assert following.checked.lacking == (7,)
        embed(lobby, [7])
        delete(lobby, sites, "new")
        following.catch_up()
        assert held(following) == {"s1": 7, "s2": 3, "s3": 4, "s4": 5, "s5": 6}
        sites.use(following)
    live = sites.get("lobby")
    assert live is not None
    assert (live.model, live.index) == (model("2"), following.index)
    delete(lobby, sites, "s1")
    assert len(live.index) == 4


def test_what_changes_while_it_is_read_is_not_missed(
    lobby: Store,
    sites: LiveSites,
    make_row: Callable[..., NewRow],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service.store.store, "_LOAD_CHUNK", 2)
    read = lobby.embedded_entries

    changes = iter(
        [
            lambda: delete(lobby, sites, "s0"),  # was read
            lambda: delete(lobby, sites, "s4"),  # is still to be read
            lambda: enroll(lobby, sites, make_row("s2", 7)),
        ]
    )

    def changing(*given: Any) -> Any:
        for chunk in read(*given):
            yield chunk
            next(changes, lambda: None)()

    following = sites.prepare("lobby", model("2"))
    with sites.preparing(following):
        with monkeypatch.context() as patch:
            patch.setattr(lobby, "embedded_entries", changing)
            following.follow()
        embed(lobby, [6, 7])
        sites.use(following)
    assert held(following) == {"s1": 2, "s2": 7, "s3": 4, "s5": 6}


def test_the_writer_reads_only_what_changed_last(
    lobby: Store, sites: LiveSites, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(lobby, [6])
    asked: list[Sequence[str] | None] = []
    read = lobby.embedded_entries

    def watched(site: str, model: str, dimension: int, ids: Sequence[str] | None) -> Any:
        asked.append(ids)
        return read(site, model, dimension, ids)

    monkeypatch.setattr(lobby, "embedded_entries", watched)
    following = sites.prepare("lobby", model("2"))
    with sites.preparing(following):
        following.follow()
        delete(lobby, sites, "s3")
        sites.use(following)
    assert asked == [None, ["s3"]]
    assert set(held(following)) == {"s0", "s1", "s2", "s4", "s5"}


def test_a_damaged_vector_ends_it_before_anything_is_changed(
    lobby: Store, sites: LiveSites, database: Path
) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE embeddings SET vector = 'x' WHERE row = 2 AND model = ?", [TWO])
    following = sites.prepare("lobby", model("2"))
    with (
        sites.preparing(following),
        pytest.raises(DamagedRowError, match="sighting s1 of site lobby has a vector"),
    ):
        following.follow()


def test_a_site_that_has_gone(lobby: Store, sites: LiveSites) -> None:
    following = sites.prepare("lobby", model("2"))
    with sites.preparing(following):
        following.follow()
        lobby.delete_site("lobby", force=True, then=lambda _: sites.remove("lobby")).result(10)
        with pytest.raises(SiteNotFoundError):
            following.follow()
    with pytest.raises(SiteNotFoundError):
        sites.prepare("lobby", model("2"))


def test_one_that_is_given_up_stops_reading(
    lobby: Store, sites: LiveSites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.store.store, "_LOAD_CHUNK", 1)
    following = sites.prepare("lobby", model("2"))
    following.give_up()
    following.follow()
    assert held(following) == {}
