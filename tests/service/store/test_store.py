from __future__ import annotations

import os
import resource
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event

from service.errors import (
    BadImageError,
    CallError,
    ModelMismatchError,
    RequestIdReusedError,
    RolloverRunningError,
    SightingNotFoundError,
    SiteExistsError,
    SiteNotEmptyError,
    SiteNotFoundError,
    StoreUnusableError,
)
from service.jobs.rows import JobRows
from service.operations.metrics import Metrics, new_metrics
from service.store.log_emptier import LogEmptier
from service.store.records import (
    UNCHECKED,
    Checked,
    EnrollOutcome,
    IdempotencyKey,
    NewRow,
    Stored,
    new_rows,
)
from service.store.store import Store
from service.types import EVERY_SIGHTING, Detail, NewSighting, SightingFilter
from tests.support.waiting import eventually

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ONE, TWO = "1" * 64, "2" * 64
DIMENSION = 4
TTL = timedelta(hours=1)


def ignore(_: object) -> None:
    pass


@pytest.fixture
def lobby(store: Store) -> Store:
    store.register_model(ONE, "person@1")
    store.register_model(TWO, "person@2")
    store.create_site("lobby", ONE, NOW, ignore).result(10)
    return store


def enroll(
    store: Store,
    *items: NewRow | CallError,
    site: str = "lobby",
    model: str = ONE,
    key: IdempotencyKey | None = None,
    now: datetime = NOW,
) -> EnrollOutcome:
    return store.enroll(site, model, items, key=key, now=now, request_ttl=TTL, then=ignore).result(
        10
    )


def bind(
    store: Store, model: str, *, unusable: Sequence[int] = (), undo: bool = False
) -> int | None:
    """Bind the lobby to a model; sightings dropped, None where some are not embedded yet."""
    return store.bind_site(
        "lobby", model, unusable=unusable, undo=undo, now=NOW, then=ignore
    ).result(10)


def embed_all(store: Store, model: str) -> None:
    for crop in store.crops_without_embedding("lobby", model, after=0, limit=99):
        store.add_embeddings(model, {crop.row: np.ones(DIMENSION, np.float32)}).result(10)


def ids(rows: Sequence[Any]) -> list[str]:
    return [row.id for row in rows]


def test_a_sighting_is_read_as_it_was_stored(lobby: Store, make_row: Callable[..., NewRow]) -> None:
    row = make_row("a", 7, camera="c2", track="t1", person="p1", attributes={"file": "x/ä.png"})
    answer = enroll(lobby, row)
    assert answer == EnrollOutcome((Stored("a", replaced=False),), repeated=False, numbers=(1,))
    assert lobby.sighting("lobby", "a") == row.sighting
    assert lobby.crop("lobby", "a") == b"image"
    ((entry,),) = lobby.index_entries("lobby", ONE, DIMENSION)
    np.testing.assert_array_equal(entry.vector, row.vector)
    assert (entry.id, entry.camera, entry.track, entry.person) == ("a", "c2", "t1", "p1")
    assert lobby.sightings_by_number([entry.number, 99]) == {1: row.sighting}


def test_the_files_are_for_their_owner_only(
    lobby: Store, database: Path, make_row: Callable[..., NewRow]
) -> None:
    database.parent.chmod(0o755)
    enroll(lobby, make_row("a"))
    files = {path.name: path.stat().st_mode & 0o777 for path in database.parent.iterdir()}
    assert files == {f"{database.name}{end}": 0o600 for end in ("", "-wal", "-shm")}


def test_request_ids_can_be_forgotten_without_a_new_one(
    lobby: Store, make_row: Callable[..., NewRow]
) -> None:
    enroll(lobby, make_row("a"), key=IdempotencyKey("r1", "x"))
    lobby.forget_requests(NOW).result(10)
    assert lobby.earlier_outcome("lobby", ONE, IdempotencyKey("r1", "x"), NOW) is not None
    lobby.forget_requests(NOW + timedelta(microseconds=1)).result(10)
    assert lobby.earlier_outcome("lobby", ONE, IdempotencyKey("r1", "x"), NOW) is None


def test_everything_is_there_after_reopening(
    lobby: Store, database: Path, make_row: Callable[..., NewRow], metrics: Metrics
) -> None:
    enroll(lobby, *(make_row(f"s{n}", n) for n in range(5)))
    lobby.close()
    again = Store.open(database, new_metrics())
    assert ids(again.list_sightings("lobby", EVERY_SIGHTING, after="", limit=9)) == [
        "s0",
        "s1",
        "s2",
        "s3",
        "s4",
    ]
    (site,) = again.sites()
    assert (site.id, site.model, site.reference, site.sightings) == ("lobby", ONE, "person@1", 5)
    assert site.created == NOW
    again.close()


def test_a_known_id_is_replaced(lobby: Store, make_row: Callable[..., NewRow]) -> None:
    enroll(lobby, make_row("a", 1), make_row("b", 2))
    new = make_row("a", 3, image=None, camera="c9")
    (before,) = lobby.index_entries("lobby", ONE, DIMENSION)
    answer = enroll(lobby, new)
    assert answer.items == (Stored("a", replaced=True),)
    old = next(entry.number for entry in before if entry.id == "a")
    assert lobby.sightings_by_number([old, *answer.numbers]) == {answer.numbers[0]: new.sighting}
    assert lobby.sighting("lobby", "a") == new.sighting
    assert lobby.crop("lobby", "a") is None
    (entries,) = lobby.index_entries("lobby", ONE, DIMENSION)
    assert sorted(entry.id for entry in entries) == ["a", "b"]
    assert lobby.site("lobby").sightings == 2


def test_more_ids_than_one_statement_takes(lobby: Store, make_row: Callable[..., NewRow]) -> None:
    rows = [make_row(f"s{n:04d}", n) for n in range(1201)]
    enroll(lobby, *rows)
    answer = enroll(lobby, *rows)
    assert all(isinstance(item, Stored) and item.replaced for item in answer.items)
    assert lobby.site("lobby").sightings == 1201
    assert len(lobby.sightings_by_id("lobby", ids([row.sighting for row in rows]))) == 1201


def test_attributes_of_named_sightings_are_bounded(
    lobby: Store, make_row: Callable[..., NewRow]
) -> None:
    enroll(lobby, *(make_row(f"s{n:04d}", n, attributes={"k": "x" * 9}) for n in range(1201)))
    names = [f"s{n:04d}" for n in range(1201)]
    for max_bytes, full in ((-1, 0), (0, 1), (15, 2), (7000, 701), (12_010, 1201)):
        found = lobby.sightings_by_id("lobby", names, max_bytes)
        assert sorted(found) == names
        assert sum(bool(sighting.attributes) for sighting in found.values()) == full


def test_sites_do_not_see_each_other(lobby: Store, make_row: Callable[..., NewRow]) -> None:
    lobby.create_site("yard", ONE, NOW, ignore).result(10)
    enroll(lobby, make_row("a", 1, camera="lobby-cam"))
    enroll(lobby, make_row("a", 2, camera="yard-cam"), site="yard")
    lobby.delete_sighting("lobby", "a", ignore).result(10)
    assert lobby.sighting("yard", "a").camera == "yard-cam"
    with pytest.raises(SightingNotFoundError):
        lobby.sighting("lobby", "a")


@pytest.mark.parametrize(
    ("wanted", "right"),
    [
        (SightingFilter(), ["a", "b", "c"]),
        (SightingFilter(cameras=("c1", "c3")), ["a", "c"]),
        (SightingFilter(exclude_cameras=("c1",)), ["b", "c"]),
        (SightingFilter(persons=("ann",)), ["a", "c"]),
        (SightingFilter(exclude_tracks=("t1",)), ["b", "c"]),
        (SightingFilter(start=datetime(2026, 1, 1, 0, 0, 2, tzinfo=UTC)), ["b", "c"]),
        (SightingFilter(end=datetime(2026, 1, 1, 0, 0, 2, tzinfo=UTC)), ["a"]),
        (SightingFilter(persons=("ann",), exclude_cameras=("c1",)), ["c"]),
    ],
)
def test_list_filters(
    lobby: Store, make_row: Callable[..., NewRow], wanted: SightingFilter, right: list[str]
) -> None:
    enroll(
        lobby,
        make_row("a", 1, camera="c1", person="ann", track="t1"),
        make_row("b", 2, camera="c2", person="bob", track="t2"),
        make_row("c", 3, camera="c3", person="ann"),
    )
    assert ids(lobby.list_sightings("lobby", wanted, after="", limit=10)) == right
    assert ids(lobby.list_sightings("lobby", wanted, after=right[0], limit=10)) == right[1:]
    assert ids(lobby.list_sightings("lobby", wanted, after="", limit=1)) == right[:1]


def test_no_more_attributes_are_read_than_asked_for(
    lobby: Store, make_row: Callable[..., NewRow]
) -> None:
    rows = [make_row(name, attributes={"k": "x" * 9}) for name in "abcd"]
    enroll(lobby, *rows)
    compact = [replace(row.sighting, attributes={}) for row in rows]
    for limit, count in ((39, 4), (29, 3), (30, 4), (0, 1)):
        detail = Detail(max_bytes=limit)
        read = lobby.list_sightings("lobby", EVERY_SIGHTING, after="", limit=9, detail=detail)
        assert read == [row.sighting for row in rows][:count]
        numbered = lobby.sightings_by_number([1, 2, 3, 4], detail)
        assert list(numbered.values()) == read
    detail = Detail(attributes=False, max_bytes=0)
    read = lobby.list_sightings("lobby", EVERY_SIGHTING, after="", limit=9, detail=detail)
    assert read == compact
    assert list(lobby.sightings_by_number([1, 2, 3, 4], detail).values()) == compact


def test_errors_of_sites_and_sightings(lobby: Store, make_row: Callable[..., NewRow]) -> None:
    with pytest.raises(SiteNotFoundError, match="resight site create nowhere"):
        lobby.site("nowhere")
    with pytest.raises(SiteNotFoundError):
        enroll(lobby, make_row("a"), site="nowhere")
    with pytest.raises(SiteNotFoundError):
        lobby.list_sightings("nowhere", EVERY_SIGHTING, after="", limit=1)
    with pytest.raises(SiteExistsError):
        lobby.create_site("lobby", ONE, NOW, ignore).result(10)
    with pytest.raises(SightingNotFoundError):
        lobby.delete_sighting("lobby", "a", ignore).result(10)
    with pytest.raises(ModelMismatchError, match=r"person@1 .*person@2.*resight site reembed"):
        enroll(lobby, make_row("a"), model=TWO)


def test_a_site_with_sightings_needs_force(lobby: Store, make_row: Callable[..., NewRow]) -> None:
    enroll(lobby, make_row("a"), key=IdempotencyKey("r", "f"))
    with pytest.raises(SiteNotEmptyError, match="sightings: 1"):
        lobby.delete_site("lobby", force=False, then=ignore).result(10)
    lobby.delete_site("lobby", force=True, then=ignore).result(10)
    assert lobby.sites() == []
    lobby.create_site("lobby", ONE, NOW, ignore).result(10)
    assert lobby.site("lobby").sightings == 0
    lobby.delete_site("lobby", force=False, then=ignore).result(10)


def test_many_sightings_are_not_counted_before_a_refusal(
    lobby: Store, make_row: Callable[..., NewRow]
) -> None:
    enroll(lobby, *(make_row(f"s{n}") for n in range(1001)))
    with pytest.raises(SiteNotEmptyError, match="sightings: more than 1000"):
        lobby.delete_site("lobby", force=False, then=ignore).result(10)


@pytest.mark.slow
def test_old_request_ids_are_forgotten_in_portions(
    lobby: Store, make_row: Callable[..., NewRow]
) -> None:
    for number in range(0, 501):
        lobby.enroll(
            "lobby", ONE, [], key=IdempotencyKey(f"r{number}", "x"), now=NOW, request_ttl=TTL,
            then=ignore,
        )  # fmt: skip
    late = NOW + timedelta(seconds=1)
    assert lobby.forget_requests(late).result(10)
    assert not lobby.forget_requests(late).result(10)


def test_a_request_id_gives_the_first_answer_again(
    lobby: Store, make_row: Callable[..., NewRow]
) -> None:
    key = IdempotencyKey("r1", "content")
    bad = BadImageError("broken", metadata={"problem": "IMAGE_DAMAGED"})
    enroll(lobby, make_row("a", 1))
    first = enroll(lobby, make_row("a", 2), bad, key=key)
    again = enroll(lobby, make_row("other", 3), key=key)
    found = lobby.earlier_outcome("lobby", ONE, key, NOW)
    assert found is not None
    for answer in (again, found):
        assert answer.repeated
        stored, error = answer.items
        assert stored == first.items[0] == Stored("a", replaced=True)
        assert isinstance(error, BadImageError)
        assert (str(error), error.metadata) == ("broken", {"problem": "IMAGE_DAMAGED"})
    assert lobby.site("lobby").sightings == 1


def test_a_request_id_with_other_content_is_refused(
    lobby: Store, make_row: Callable[..., NewRow]
) -> None:
    enroll(lobby, make_row("a"), key=IdempotencyKey("r1", "content"))
    for call in (
        lambda: enroll(lobby, make_row("b"), key=IdempotencyKey("r1", "other")),
        lambda: lobby.earlier_outcome("lobby", ONE, IdempotencyKey("r1", "other"), NOW),
    ):
        with pytest.raises(RequestIdReusedError):
            call()
    assert lobby.site("lobby").sightings == 1


def test_request_ids_are_forgotten_after_their_time(
    lobby: Store, make_row: Callable[..., NewRow]
) -> None:
    enroll(lobby, make_row("a"), key=IdempotencyKey("r1", "x"))
    enroll(lobby, make_row("b"), key=IdempotencyKey("r2", "x"), now=NOW + TTL)
    assert lobby.earlier_outcome("lobby", ONE, IdempotencyKey("r1", "x"), NOW) is not None
    enroll(
        lobby,
        make_row("c"),
        key=IdempotencyKey("r3", "x"),
        now=NOW + TTL + timedelta(microseconds=1),
    )
    assert lobby.earlier_outcome("lobby", ONE, IdempotencyKey("r1", "x"), NOW) is None
    assert lobby.earlier_outcome("lobby", ONE, IdempotencyKey("r2", "x"), NOW) is not None


def test_a_request_id_past_its_time_is_a_new_one_without_a_purge(
    lobby: Store, make_row: Callable[..., NewRow]
) -> None:
    key, late = IdempotencyKey("r1", "x"), NOW + TTL + timedelta(microseconds=1)
    enroll(lobby, make_row("a"), key=key)
    assert lobby.earlier_outcome("lobby", ONE, key, late - TTL) is None
    other = IdempotencyKey("r1", "other content")
    assert lobby.earlier_outcome("lobby", ONE, other, late - TTL) is None
    assert not enroll(lobby, make_row("b"), key=other, now=late).repeated
    assert enroll(lobby, make_row("b"), key=other, now=late).repeated
    assert lobby.site("lobby").sightings == 2


def test_a_repeated_call_after_its_sightings_were_deleted_or_replaced(
    lobby: Store, make_row: Callable[..., NewRow]
) -> None:
    key = IdempotencyKey("r1", "x", ("a", "b", "c", "", ""))
    rows = [make_row(name) for name in ("a", "b", "c", "made-d", "made-e")]
    enroll(lobby, *rows, key=key)
    enroll(lobby, make_row("b", camera="c9"))
    for gone in ("c", "made-e"):
        lobby.delete_sighting("lobby", gone, ignore).result(10)
    again = enroll(lobby, *rows, key=key)
    assert again.repeated
    kept = [item.id if isinstance(item, Stored) else item.reason for item in again.items]
    assert kept == ["a", "b", "SIGHTING_NOT_FOUND", "made-d", "SIGHTING_NOT_FOUND"]
    assert lobby.sighting("lobby", "b").camera == "c9"
    assert lobby.site("lobby").sightings == 3, "nothing deleted comes back"


def test_nothing_is_left_of_the_id_of_a_deleted_sighting(
    lobby: Store, database: Path, make_row: Callable[..., NewRow]
) -> None:
    now = datetime(2026, 1, 3, tzinfo=UTC)
    new = [
        (NewSighting(b"image", "c1", id="Ann-Other"), make_row("a").vector),
        (NewSighting(b"image", "c1", id="Ann-Other"), make_row("a").vector),
    ]
    rows = new_rows(new, now=now, new_id=lambda: "made", keep_crops=True)
    key = IdempotencyKey("r1", "x", ("Ann-Other", "Ann-Other"))
    enroll(lobby, *rows, key=key)
    lobby.delete_sighting("lobby", "Ann-Other", ignore).result(10)
    again = enroll(lobby, *rows, key=key).items
    assert [getattr(item, "reason", "") for item in again] == ["SIGHTING_NOT_FOUND", "DUPLICATE_ID"]
    on_disk = b"".join(path.read_bytes() for path in database.parent.iterdir())
    assert b"Ann-Other" not in on_disk


def test_deleted_data_is_not_on_the_disk(
    lobby: Store, database: Path, make_row: Callable[..., NewRow]
) -> None:
    secret = b"face of somebody" * 4000
    enroll(lobby, make_row("a", 1, image=secret, person="Ann Other"), make_row("b", 2))

    def on_disk() -> bytes:
        return b"".join(path.read_bytes() for path in database.parent.iterdir())

    assert secret[:16] in on_disk()
    lobby.delete_sighting("lobby", "a", ignore).result(10)
    assert b"face of somebody" not in on_disk()
    assert b"Ann Other" not in on_disk()


@contextmanager
def disk_full_at(size: int) -> Iterator[None]:
    """No file can grow beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("retry", ["meanwhile", "next start"])
def test_data_deleted_while_the_disk_is_full_is_wiped_later(
    database: Path,
    make_row: Callable[..., NewRow],
    caplog: pytest.LogCaptureFixture,
    retry: str,
) -> None:
    secret = b"face of somebody" * 4000
    store = Store.open(database, new_metrics())
    store.register_model(ONE, "person@1")
    store.create_site("lobby", ONE, NOW, ignore).result(10)
    enroll(store, make_row("large", 1, image=b"x" * 1_000_000))
    store.close()  # empties the log
    store = Store.open(database, new_metrics())
    told: list[None] = []

    def log_file() -> bytes:
        return database.with_name(f"{database.name}-wal").read_bytes()

    enroll(store, make_row("a", 2, image=secret))
    with disk_full_at(database.stat().st_size):  # there is room in the log, not in the database
        store.delete_sighting("lobby", "a", told.append).result(10)
        assert told == [None]
        assert secret[:16] in log_file()
        eventually(lambda: bool(caplog.records))  # with the second attempt
        (record,) = caplog.records
        assert "write-ahead log could not be emptied" in record.message
        if retry == "next start":
            store.close()
            assert secret[:16] in log_file()
    if retry == "next start":
        store = Store.open(database, new_metrics())
        assert log_file() == b""
    else:
        eventually(lambda: log_file() == b"")
    assert [r.levelname for r in caplog.records if r.levelname != "INFO"] == ["WARNING"]
    assert ids(store.list_sightings("lobby", EVERY_SIGHTING, after="", limit=9)) == ["large"]
    store.close()


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%20b", "a b", "a?mode=ro", "ä:memory:"])
def test_the_database_is_made_at_the_given_path(
    name: str, tmp_path: Path, make_row: Callable[..., NewRow]
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    store = Store.open(folder / "resight.db", new_metrics())
    store.register_model(ONE, "person@1")
    store.create_site("lobby", ONE, NOW, ignore).result(10)
    enroll(store, make_row("a"))
    store.close()
    assert list(tmp_path.iterdir()) == [folder]
    assert [path.name for path in folder.iterdir()] == ["resight.db"]
    with closing(sqlite3.connect(folder / "resight.db")) as connection:
        assert connection.execute("SELECT sighting FROM sightings").fetchall() == [("a",)]


def test_embeddings_of_another_model_are_kept_apart(
    lobby: Store, make_row: Callable[..., NewRow]
) -> None:
    rows = [make_row(f"s{n}", n) for n in range(3)]
    enroll(lobby, *rows)
    page = lobby.crops_without_embedding("lobby", TWO, after=0, limit=2)
    assert ids(page) == ["s0", "s1"]
    assert page[0].image == b"image"
    new = np.eye(DIMENSION, dtype=np.float32)
    lobby.add_embeddings(TWO, {crop.row: new[n] for n, crop in enumerate(page)}).result(10)
    assert lobby.count_embedded("lobby", TWO) == 2
    assert lobby.count_embedded("lobby", ONE) == 3
    rest = lobby.crops_without_embedding("lobby", TWO, after=page[-1].row, limit=2)
    assert ids(rest) == ["s2"]
    assert bind(lobby, TWO) is None
    assert bind(lobby, TWO, unusable=[page[0].row]) is None
    assert lobby.site("lobby").model == ONE
    assert bind(lobby, TWO, unusable=[rest[0].row]) == 1
    assert lobby.site("lobby").model == TWO
    ((first, second),) = lobby.index_entries("lobby", TWO, DIMENSION)
    np.testing.assert_array_equal(np.stack([first.vector, second.vector]), new[:2])


def test_binding_keeps_the_vectors_of_the_model_before_and_of_no_other(
    lobby: Store, make_row: Callable[..., NewRow]
) -> None:
    three = "3" * 64
    lobby.register_model(three, "person@3")
    enroll(lobby, make_row("a"))
    for model in (TWO, three):
        embed_all(lobby, model)
        assert bind(lobby, model) == 0
    eventually(lambda: not lobby.wiping)
    assert [lobby.count_embedded("lobby", model) for model in (ONE, TWO, three)] == [0, 1, 1]


def test_the_models_of_a_site_are_a_stack(lobby: Store) -> None:
    three = "3" * 64
    lobby.register_model(three, "person@3")

    def earlier() -> str | None:
        found = lobby.earlier_model("lobby")
        return None if found is None else found.reference

    assert earlier() is None
    assert bind(lobby, TWO) == 0
    assert earlier() == "person@1"
    assert bind(lobby, three) == 0
    assert earlier() == "person@2"
    assert bind(lobby, TWO, undo=True) == 0
    assert (lobby.site("lobby").reference, earlier()) == ("person@2", "person@1")
    assert bind(lobby, ONE, undo=True) == 0
    assert (lobby.site("lobby").reference, earlier()) == ("person@1", None)
    assert bind(lobby, three) == 0
    assert earlier() == "person@1"
    with pytest.raises(SiteNotFoundError):
        lobby.earlier_model("nowhere")


def test_undoing_to_another_model_than_the_one_before_is_refused(lobby: Store) -> None:
    three = "3" * 64
    lobby.register_model(three, "person@3")
    with pytest.raises(RolloverRunningError):
        bind(lobby, TWO, undo=True)
    for model in (TWO, three):  # the second while a rollback to model 1 was being prepared
        assert bind(lobby, model) == 0
    with pytest.raises(RolloverRunningError, match="meanwhile"):
        bind(lobby, ONE, undo=True)
    assert lobby.site("lobby").reference == "person@3"
    assert lobby.earlier_model("lobby").reference == "person@2"


def test_a_binding_that_did_not_happen_calls_nothing(
    lobby: Store, make_row: Callable[..., NewRow]
) -> None:
    enroll(lobby, make_row("a"))
    told: list[int] = []
    bound = lobby.bind_site("lobby", TWO, unusable=(), undo=False, now=NOW, then=told.append)
    assert bound.result(10) is None
    assert (told, lobby.site("lobby").model, lobby.earlier_model("lobby")) == ([], ONE, None)


def test_only_what_was_not_checked_is_looked_at_again(
    lobby: Store, make_row: Callable[..., NewRow]
) -> None:
    enroll(lobby, *(make_row(f"s{n}", n) for n in range(3)))
    checked = lobby.check_vectors("lobby", TWO, UNCHECKED)
    assert (checked.row, checked.lacking) == (3, (1, 2, 3))
    embed_all(lobby, TWO)
    checked = lobby.check_vectors("lobby", TWO, checked)
    assert (checked.row, checked.lacking) == (3, ())
    enroll(lobby, make_row("s1", 7), make_row("late", 8))

    def bound(*unusable: int) -> int | None:
        return lobby.bind_site(
            "lobby", TWO, unusable=unusable, undo=False, now=NOW, then=ignore, checked=checked
        ).result(10)

    assert bound() is None
    embed = {4: np.ones(DIMENSION, np.float32)}
    lobby.add_embeddings(TWO, embed).result(10)
    assert bound() is None
    assert lobby.check_vectors("lobby", TWO, checked).lacking == (5,)
    assert bound(5) == 1
    listed = lobby.list_sightings("lobby", EVERY_SIGHTING, after="", limit=9)
    assert ids(listed) == ["s0", "s1", "s2"]


def test_a_portion_is_found_without_reading_the_whole_site(
    lobby: Store, make_row: Callable[..., NewRow]
) -> None:
    enroll(lobby, *(make_row(f"s{n}", n) for n in range(3)))
    plans: list[str] = []

    def explain(connection: Any, _: object, statement: str, values: Any, *more: object) -> None:
        cursor = connection.connection.cursor()
        steps = cursor.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
        plans.append("; ".join(step[3] for step in steps))

    event.listen(lobby._reader, "before_cursor_execute", explain)
    lobby.crops_without_embedding("lobby", TWO, after=1, limit=1)
    list(JobRows(lobby).kept_crops("lobby"))
    lobby.check_vectors("lobby", TWO, Checked(row=2))
    portions = [plan for plan in plans if "sightings_by_row" in plan]
    assert len(portions) == 4, "the second reads twice"
    assert all("sightings_by_row (site=? AND row>?)" in plan for plan in portions)
    assert not any("TEMP B-TREE" in plan for plan in plans)
    list(lobby.embedded_entries("lobby", TWO, DIMENSION, None))
    assert any("(site=? AND sighting>?)" in plan for plan in plans)
    assert not any("TEMP B-TREE" in plan for plan in plans)


def test_a_site_that_was_made_anew_is_another_one(lobby: Store) -> None:
    number = lobby.begin_rollover("lobby", TWO, "person@2")
    checked = lobby.check_vectors("lobby", TWO, Checked(number))
    lobby.delete_site("lobby", force=True, then=ignore).result(10)
    with pytest.raises(SiteNotFoundError):
        lobby.begin_rollover("lobby", TWO, "person@2")
    lobby.create_site("lobby", ONE, NOW, ignore).result(10)
    with pytest.raises(SiteNotFoundError, match="made anew"):
        lobby.check_vectors("lobby", TWO, checked)
    with pytest.raises(SiteNotFoundError, match="made anew"):
        lobby.bind_site(
            "lobby", TWO, unusable=(), undo=False, now=NOW, then=ignore, checked=checked
        ).result(10)
    assert lobby.site("lobby").model == ONE
    assert lobby.begin_rollover("lobby", TWO, "person@2") != number


def test_sightings_without_a_vector_are_dropped(
    lobby: Store, make_row: Callable[..., NewRow]
) -> None:
    number = lobby.begin_rollover("lobby", TWO, "person@2")
    enroll(lobby, *(make_row(f"s{n}", n) for n in range(5)))
    lobby.add_embeddings(TWO, {2: np.eye(DIMENSION, dtype=np.float32)[0]}).result(10)
    told: list[Sequence[str]] = []
    dropped = lobby.drop_sightings("lobby", TWO, [1, 2, 4, 99], number, told.append).result(10)
    assert dropped == ["s0", "s3"]
    assert told == [dropped]
    listed = lobby.list_sightings("lobby", EVERY_SIGHTING, after="", limit=9)
    assert ids(listed) == ["s1", "s2", "s4"]
    with pytest.raises(SiteNotFoundError):
        lobby.drop_sightings("lobby", TWO, [5], number + 1, told.append).result(10)
    eventually(lambda: not lobby.wiping)
    assert lobby.site("lobby").sightings == 3


def test_vectors_of_some_sightings(lobby: Store, make_row: Callable[..., NewRow]) -> None:
    enroll(lobby, *(make_row(f"s{n}", n) for n in range(4)))
    lobby.add_embeddings(TWO, {2: np.eye(DIMENSION, dtype=np.float32)[0]}).result(10)

    def read(wanted: Sequence[str] | None) -> list[tuple[list[str], list[str]]]:
        found = lobby.embedded_entries("lobby", TWO, DIMENSION, wanted)
        return [(ids(entries), lacking) for entries, lacking in found]

    assert read(None) == [(["s1"], ["s0", "s2", "s3"])]
    assert read(["s1", "s3", "nobody"]) == [(["s1"], ["s3"])]
    assert read([]) == []


def test_embeddings_of_deleted_sightings_are_left_out(
    lobby: Store, make_row: Callable[..., NewRow]
) -> None:
    enroll(lobby, make_row("a"))
    (crop,) = lobby.crops_without_embedding("lobby", TWO, after=0, limit=9)
    lobby.delete_sighting("lobby", "a", ignore).result(10)
    lobby.add_embeddings(TWO, {crop.row: np.ones(DIMENSION, np.float32)}).result(10)
    enroll(lobby, make_row("b", 1))
    assert lobby.count_embedded("lobby", TWO) == 0


def test_a_file_that_is_not_a_database_is_refused(database: Path, metrics: Metrics) -> None:
    database.write_bytes(b"this is not a database, but long enough to be read as one" * 100)
    with pytest.raises(StoreUnusableError, match="restore it from a backup"):
        Store.open(database, metrics)


@pytest.mark.parametrize("beside", ["nothing", "an empty file"])
def test_a_log_whose_database_has_gone_is_refused_and_kept(
    lobby: Store, database: Path, tmp_path: Path, beside: str
) -> None:
    log_file = database.with_name(f"{database.name}-wal")
    with lobby.reading():  # the log is not moved into the database
        lobby.create_site("yard", ONE, NOW, ignore).result(10)
        left = tmp_path / "crashed" / database.name
        left.parent.mkdir()
        kept = left.with_name(f"{database.name}-wal")
        kept.write_bytes(log_file.read_bytes())
        whole = database.read_bytes()
    if beside == "an empty file":
        left.touch()
    with pytest.raises(StoreUnusableError, match="put the database back beside it") as refused:
        Store.open(left, new_metrics())
    assert str(left) in str(refused.value)
    assert kept.read_bytes()
    left.write_bytes(whole)
    again = Store.open(left, new_metrics())
    assert ids(again.sites()) == ["lobby", "yard"]
    again.close()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def log_to_folder(path: Path) -> None:
    path.with_name(f"{path.name}-wal").mkdir()


def read_only(path: Path) -> None:
    path.with_name(f"{path.name}-shm").mkdir()  # cannot be written, by no user


def garble(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100] + bytes(path.stat().st_size - 100))


@pytest.mark.parametrize(
    ("damage", "advice"),
    [
        (cut, "restore it from a backup"),
        (garble, "restore it from a backup"),
        (to_folder, "have to be files that the user of this server may read and write"),
        (log_to_folder, "have to be files that the user of this server may read and write"),
        (read_only, "check their modes, and how the disk is mounted"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_advice(
    lobby: Store, database: Path, damage: Callable[[Path], None], advice: str
) -> None:
    lobby.close()
    damage(database)
    with pytest.raises(StoreUnusableError) as refused:
        Store.open(database, new_metrics())
    assert str(database) in str(refused.value)
    assert advice in str(refused.value)


def test_a_database_cut_off_beside_a_log_is_refused(
    lobby: Store, database: Path, tmp_path: Path, make_row: Callable[..., NewRow]
) -> None:
    enroll(lobby, make_row("large", image=b"x" * 1_000_000))
    lobby.close()
    lobby = Store.open(database, new_metrics())
    enroll(lobby, make_row("small"))
    crashed = tmp_path / "crashed" / database.name
    crashed.parent.mkdir()
    for path in (database, database.with_name(f"{database.name}-wal")):
        (crashed.parent / path.name).write_bytes(path.read_bytes())
    lobby.close()
    cut(crashed)
    with pytest.raises(StoreUnusableError, match=r"malformed.*restore it from a backup"):
        Store.open(crashed, new_metrics())


def test_a_first_write_that_is_refused_ends_the_start(
    database: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise OSError("the disk has gone")

    monkeypatch.setattr(LogEmptier, "after_deletion", refuse)
    threads = threading.active_count()
    with pytest.raises(StoreUnusableError, match="cannot be written") as refused:
        Store.open(database, metrics)
    assert str(database) in str(refused.value)
    assert threading.active_count() == threads


@pytest.mark.slow
def test_a_database_that_another_process_holds_is_refused(lobby: Store, database: Path) -> None:
    lobby.close()
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnusableError, match="another process holds it"):
            Store.open(database, new_metrics())


def test_a_database_of_another_version_is_refused(database: Path, metrics: Metrics) -> None:
    Store.open(database, metrics).close()
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE schema_version SET version = 99")
    connection.close()
    with pytest.raises(StoreUnusableError, match="schema version 99"):
        Store.open(database, new_metrics())
