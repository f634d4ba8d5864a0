from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Connection, Engine, Table, func, insert, select, update

import service.store.wiping
from service.operations.metrics import new_metrics
from service.store.records import IdempotencyKey, NewRow
from service.store.sqlite import open_sqlite
from service.store.store import Store
from service.store.tables import (
    activations,
    crops,
    embeddings,
    requests,
    sightings,
    site_vectors,
    sites,
)
from service.store.wiping import Pass, move_to_deleted_site, want_vectors, wipe_chunk

NOW = datetime(2026, 1, 2, tzinfo=UTC)
MODELS = ONE, TWO, THREE = "1" * 64, "2" * 64, "3" * 64


def ignore(_: object) -> None:
    pass


@pytest.fixture
def engine(
    database: Path, make_row: Callable[..., NewRow], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Engine]:
    """Two sites of 7 sightings, each with vectors of all models; chunks are of 3."""
    store = Store.open(database, new_metrics())
    for model in MODELS:
        store.register_model(model, f"person@{model[0]}")
    for site in ("lobby", "yard"):
        store.create_site(site, ONE, NOW, ignore).result(10)
        store.enroll(
            site, ONE, [make_row(f"s{n}", n) for n in range(7)], key=IdempotencyKey("r", "x"),
            now=NOW, request_ttl=timedelta(hours=1), then=ignore,
        ).result(10)  # fmt: skip
        for model in (TWO, THREE):
            for crop in store.crops_without_embedding(site, model, after=0, limit=99):
                store.add_embeddings(model, {crop.row: np.ones(4, np.float32)}).result(10)
    store.close()
    monkeypatch.setattr(service.store.wiping, "CHUNK_ROWS", 3)
    reader, writer = open_sqlite(database)
    yield writer
    reader.dispose()
    writer.dispose()


def count(connection: Connection, table: Table, site: int) -> int:
    query = select(func.count()).select_from(table)
    if table in (crops, embeddings):
        query = query.join(sightings, sightings.c.row == table.c.row)
        return int(connection.execute(query.where(sightings.c.site == site)).scalar_one())
    return int(connection.execute(query.where(table.c.site == site)).scalar_one())


def number(connection: Connection, site: str) -> int:
    return int(connection.execute(select(sites.c.number).where(sites.c.site == site)).scalar_one())


def wipe(engine: Engine) -> list[int]:
    """Wipe all; the number of sightings of all sites after each chunk."""
    left: list[int] = []
    going = None
    while True:
        with engine.begin() as connection:
            done = wipe_chunk(connection, going)
            held = select(func.count()).select_from(sightings)
            left.append(connection.execute(held).scalar_one())
        if done.over:
            return left
        going = done.next


def delete(connection: Connection, site: str) -> int:
    found = number(connection, site)
    connection.execute(update(sites).where(sites.c.site == site).values(site=None))
    return found


def test_a_deleted_site_goes_in_chunks_and_whole(engine: Engine) -> None:
    with engine.begin() as connection:
        gone, kept = delete(connection, "lobby"), number(connection, "yard")
    assert wipe(engine)[:4] == [11, 8, 7, 7]
    with engine.begin() as connection:
        for table in (sightings, crops, embeddings, requests, activations, site_vectors):
            assert count(connection, table, gone) == 0
        held = [count(connection, table, kept) for table in (sightings, crops, embeddings)]
        assert held == [7, 7, 21]
        assert count(connection, requests, kept) == 1
        assert connection.execute(select(sites.c.site)).scalars().all() == ["yard"]


def test_large_crops_make_small_chunks(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.store.wiping, "CHUNK_BYTES", 2 * len(b"image"))
    with engine.begin() as connection:
        delete(connection, "lobby")
    assert wipe(engine)[:4] == [12, 10, 8, 7]
    monkeypatch.setattr(service.store.wiping, "CHUNK_BYTES", 1)
    with engine.begin() as connection:
        delete(connection, "yard")
    assert wipe(engine)[:7] == [6, 5, 4, 3, 2, 1, 0]


def test_unwanted_vectors_go_and_others_stay(engine: Engine) -> None:
    with engine.begin() as connection:
        lobby, yard = number(connection, "lobby"), number(connection, "yard")
        unwanted = site_vectors.c.site == lobby, site_vectors.c.model.in_([ONE, THREE])
        connection.execute(update(site_vectors).where(*unwanted).values(unwanted=True))
    wipe(engine)
    with engine.begin() as connection:
        assert count(connection, embeddings, lobby) == 7
        assert count(connection, embeddings, yard) == 21
        left = select(site_vectors.c.model).where(site_vectors.c.site == lobby)
        assert connection.execute(left).scalars().all() == [TWO]


def test_vectors_that_are_wanted_again_stay(engine: Engine) -> None:
    with engine.begin() as connection:
        lobby = number(connection, "lobby")
        both = site_vectors.c.site == lobby, site_vectors.c.model.in_([ONE, THREE])
        connection.execute(update(site_vectors).where(*both).values(unwanted=True))
        first = wipe_chunk(connection, None)
        assert first.next == Pass(lobby, frozenset({(ONE, 0), (THREE, 0)}), "s2")
        want_vectors(connection, lobby, THREE)
        going: Pass | None = first.next
        while going is not None:
            going = wipe_chunk(connection, going).next
        assert wipe_chunk(connection, None).over
        query = (
            select(embeddings.c.model, func.count())
            .join(sightings, sightings.c.row == embeddings.c.row)
            .where(sightings.c.site == lobby)
            .group_by(embeddings.c.model)
        )
        held = {tuple(row) for row in connection.execute(query)}
        assert held == {(TWO, 7), (THREE, 4)}


def test_what_is_unwanted_again_within_a_pass_is_wiped_from_the_beginning(engine: Engine) -> None:
    with engine.begin() as connection:
        lobby = number(connection, "lobby")
        known = site_vectors.c.site == lobby, site_vectors.c.model == THREE
        connection.execute(update(site_vectors).where(*known).values(unwanted=True))
        going = wipe_chunk(connection, None).next
        assert going is not None
        assert going.after == "s2"
        want_vectors(connection, lobby, THREE)
        named = sightings.c.site == lobby, sightings.c.sighting == "s0"
        row = connection.execute(select(sightings.c.row).where(*named)).scalar_one()
        connection.execute(insert(embeddings).values(row=row, model=THREE, vector=b"new"))
        connection.execute(update(site_vectors).where(*known).values(unwanted=True))
        while not (done := wipe_chunk(connection, going)).over:
            going = done.next
        of_three = select(func.count()).select_from(embeddings).join(sightings)
        of_three = of_three.where(sightings.c.site == lobby, embeddings.c.model == THREE)
        assert connection.execute(of_three).scalar_one() == 0


def test_what_becomes_unwanted_during_a_pass_has_a_pass_of_its_own(engine: Engine) -> None:
    with engine.begin() as connection:
        lobby = number(connection, "lobby")

        def let_go(model: str) -> None:
            known = site_vectors.c.site == lobby, site_vectors.c.model == model
            connection.execute(update(site_vectors).where(*known).values(unwanted=True))

        let_go(ONE)
        first = wipe_chunk(connection, None)
        let_go(THREE)
        going: Pass | None = first.next
        while going is not None:
            going = wipe_chunk(connection, going).next
        assert count(connection, embeddings, lobby) == 14
        assert not wipe_chunk(connection, None).over
    wipe(engine)
    with engine.begin() as connection:
        assert count(connection, embeddings, lobby) == 7


def test_moved_sightings_belong_to_no_site_with_a_name(engine: Engine) -> None:
    with engine.begin() as connection:
        lobby = number(connection, "lobby")
        rows = connection.execute(
            select(sightings.c.row).where(sightings.c.site == lobby).limit(5)
        ).scalars()
        move_to_deleted_site(connection, list(rows), ONE)
        assert count(connection, sightings, lobby) == 2
    assert wipe(engine)[-1] == 9
