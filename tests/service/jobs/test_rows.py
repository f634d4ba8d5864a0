from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from models.job_contract import GateVerdict
from service.errors import (
    AdaptationNotFoundError,
    AdaptationOverError,
    AdaptationUnfinishedError,
    DamagedRowError,
    NoCropsError,
    SiteNotFoundError,
)
from service.jobs.records import MAX_ADAPTATION_BYTES, AdaptationSpec, JobResult, JobState
from service.jobs.rows import JobRows
from service.rpc.convert_adaptation import adaptation_to_wire
from service.store.store import Store
from tests.service.jobs.conftest import NOW, ONE

SPEC = AdaptationSpec("mmt", "mmt_small", ("optimizer.lr=1e-4",), 7)


def test_an_adaptation_comes_back_as_it_went(rows: JobRows) -> None:
    added = rows.add("j1", "lobby", SPEC, NOW).result(10)
    assert (added.id, added.site, added.spec, added.created) == ("j1", "lobby", SPEC, NOW)
    assert (added.state, added.started, added.cancel) == (JobState.PENDING, None, False)
    assert rows.get("lobby", "j1") == added
    later = NOW + timedelta(minutes=1)
    assert rows.begin(added, later).result(10).started == later
    # Begun again after a restart: what counts is the first time.
    running = rows.begin(added, later + timedelta(hours=1)).result(10)
    assert (running.state, running.started) == (JobState.RUNNING, later)
    gate = GateVerdict(verdict="promote", reasons=("better", "in all"))
    rows.finish(added, JobResult(JobState.SUCCEEDED, model="lobby@2", gate=gate), later).result(10)
    done = rows.get("lobby", "j1")
    assert (done.state, done.model, done.gate) == (JobState.SUCCEEDED, "lobby@2", gate)
    assert done.ended == later
    assert rows.states() == {"j1": JobState.SUCCEEDED}


DAMAGE = [
    ("overrides", "["),
    ("overrides", '"optimizer.lr=1"'),
    ("overrides", "[1]"),
    ("verdict_reasons", "null"),
    ("verdict_reasons", "{}"),
    ("verdict", "maybe"),
    ("state", "ASLEEP"),
    ("method", "none"),
    ("seed", -1),
    ("created_us", 2**62),
    ("ended_us", "yesterday"),
    *((column, b"x") for column in ("method", "recipe", "reason", "error", "model", "verdict")),
]


def test_a_damaged_row_fails_each_read_of_it(rows: JobRows, tmp_path: Path) -> None:
    added = rows.add("j1", "lobby", SPEC, NOW).result(10)

    def change(column: str, value: object) -> None:
        with closing(sqlite3.connect(tmp_path / "resight.db")) as connection, connection:
            connection.execute(f"UPDATE adaptations SET {column} = ?", (value,))  # noqa: S608

    with closing(sqlite3.connect(tmp_path / "resight.db")) as connection:
        connection.row_factory = sqlite3.Row
        before = dict(connection.execute("SELECT * FROM adaptations").fetchone())
    for column, value in DAMAGE:
        change(column, value)
        with pytest.raises(DamagedRowError, match="damaged: adaptation j1 of site lobby has"):
            rows.get("lobby", "j1")
        with pytest.raises(DamagedRowError, match="damaged: adaptation j1 of site lobby has"):
            rows.page("lobby", after="", limit=9)
        if column == "state":
            error = rows.states()["j1"]
            assert isinstance(error, DamagedRowError)
            assert "adaptation j1 has the state 'ASLEEP'" in str(error)
        else:
            (damaged,) = rows.unfinished()
            assert isinstance(damaged, DamagedRowError)
            assert "damaged: adaptation j1 of site lobby has" in str(damaged)
        change(column, before[column])
    assert rows.get("lobby", "j1") == added


def test_a_name_that_is_a_blob_does_not_hide_an_adaptation(rows: JobRows, tmp_path: Path) -> None:
    rows.add("j1", "lobby", SPEC, NOW).result(10)
    for column, value in (("site", b"lobby"), ("adaptation", b"j1")):
        with closing(sqlite3.connect(tmp_path / "resight.db")) as connection, connection:
            connection.execute(f"UPDATE adaptations SET {column} = ?", (value,))  # noqa: S608
        for read in (
            lambda: rows.get("lobby", "j1"),
            lambda: rows.page("lobby", after="", limit=9),
        ):
            with pytest.raises(DamagedRowError, match=r"damaged: adaptation .* that is not text"):
                read()
        for found in (*rows.states().values(), *rows.unfinished()):
            assert isinstance(found, DamagedRowError)


def test_a_damaged_state_is_not_that_of_an_adaptation_that_is_over(
    rows: JobRows, store: Store, tmp_path: Path
) -> None:
    rows.add("j1", "lobby", SPEC, NOW).result(10)
    for state in ("ASLEEP", b"RUNNING"):
        with closing(sqlite3.connect(tmp_path / "resight.db")) as connection, connection:
            connection.execute("UPDATE adaptations SET state = ?", (state,))
        for write in (
            lambda: rows.add("j2", "lobby", SPEC, NOW),
            lambda: store.delete_site("lobby", force=True, then=lambda _: None),
        ):
            with pytest.raises(DamagedRowError, match="adaptation j1 of site lobby has the state"):
                write().result(10)


def test_a_site_has_one_unfinished_adaptation(rows: JobRows, store: Store) -> None:
    job = rows.add("j1", "lobby", SPEC, NOW).result(10)
    with pytest.raises(AdaptationUnfinishedError, match="j1"):
        rows.add("j2", "lobby", SPEC, NOW).result(10)
    with pytest.raises(AdaptationUnfinishedError, match="j1"):
        store.delete_site("lobby", force=True, then=lambda _: None).result(10)
    rows.finish(job, JobResult(JobState.FAILED, "X", "x"), NOW).result(10)
    rows.add("j2", "lobby", SPEC, NOW).result(10)
    assert [job.id for job in rows.page("lobby", after="", limit=9)[0]] == ["j1", "j2"]
    assert [job.id for job in rows.page("lobby", after="j1", limit=9)[0]] == ["j2"]
    rows.cancel("lobby", "j2", NOW).result(10)
    store.delete_site("lobby", force=True, then=lambda _: None).result(10)
    assert rows.states() == {}


def test_of_a_deleted_site_is_known_which_folders_are_to_be_removed(
    rows: JobRows, store: Store
) -> None:
    for job in ("j1", "j2"):
        rows.add(job, "lobby", SPEC, NOW).result(10)
        rows.cancel("lobby", job, NOW).result(10)
    assert rows.pending_folder_deletions() == []
    store.delete_site("lobby", force=True, then=lambda _: None).result(10)
    assert sorted(map(str, rows.pending_folder_deletions())) == ["j1", "j2"]
    rows.forget_folder_deletions(["j2"]).result(10)
    assert rows.pending_folder_deletions() == ["j1"]


def test_what_runs_is_worked_on_first_then_the_oldest(
    rows: JobRows, store: Store, enroll: Callable[..., None]
) -> None:
    for site in ("empty", "s1", "s2"):
        store.create_site(site, ONE, NOW, lambda _: None).result(10)
    with pytest.raises(NoCropsError):
        rows.add("none", "empty", SPEC, NOW).result(10)
    for minutes, site in ((3, "s1"), (2, "s2"), (1, "lobby")):  # the clock is set back
        enroll("x", site=site)
        rows.add(f"of-{site}", site, SPEC, NOW + timedelta(minutes=minutes)).result(10)
    assert [getattr(job, "id", "") for job in rows.unfinished()] == ["of-s1", "of-s2", "of-lobby"]
    rows.begin(rows.get("s2", "of-s2"), NOW).result(10)
    assert [getattr(job, "id", "") for job in rows.unfinished()] == ["of-s2", "of-s1", "of-lobby"]


def test_pages_are_in_the_order_of_the_starts_also_where_the_clock_was_set_back(
    rows: JobRows, store: Store, enroll: Callable[..., None]
) -> None:
    store.create_site("yard", ONE, NOW, lambda _: None).result(10)
    enroll("x", site="yard")
    started = ["20260103-120000-aaaaaa", "20260101-120000-cccccc", "20260102-120000-bbbbbb"]
    for number, job in enumerate(started):
        rows.add(job, "lobby", SPEC, NOW - timedelta(days=number)).result(10)
        rows.cancel("lobby", job, NOW).result(10)
        rows.add(f"yard-{number}", "yard", SPEC, NOW).result(10)
        rows.cancel("yard", f"yard-{number}", NOW).result(10)
    listed, left = [""], True
    while left:
        page, left = rows.page("lobby", after=listed[-1], limit=1)
        listed += [adaptation.id for adaptation in page]
    assert listed[1:] == started
    assert [job.id for job in rows.page("lobby", after="", limit=9)[0]] == started


def test_no_adaptation_is_larger_than_the_page_says(rows: JobRows) -> None:
    """Texts of processes may have any length and any characters."""
    smile = "\N{GRINNING FACE}"
    overrides = ("a=" + smile * 198,) * 64
    sizes: list[int] = []
    for number, text in enumerate(("", smile * 10**6, "\x00\t" * 10**6)):
        job = rows.add(f"j{number}", "lobby", replace(SPEC, overrides=overrides), NOW).result(10)
        gate = GateVerdict(verdict="hold", reasons=[text] * 99)
        result = JobResult(JobState.FAILED, text, text, gate=gate)
        rows.finish(job, result, NOW).result(10)
        sizes.append(len(adaptation_to_wire(rows.get("lobby", job.id)).SerializeToString()))
    assert max(sizes) <= MAX_ADAPTATION_BYTES
    assert rows.page_bytes("lobby", after="", limit=1) >= sizes[0]
    assert rows.page_bytes("lobby", after="j1", limit=9) >= sizes[2]
    whole = rows.page_bytes("lobby", after="", limit=9)
    assert sum(sizes) <= whole < 5 * sum(sizes)
    assert rows.page_bytes("lobby", after="j2", limit=9) == 0
    assert len(rows.page("lobby", after="", limit=9, max_bytes=whole)[0]) == 3
    for most, count in ((whole - 1, 2), (1, 1)):
        found, left = rows.page("lobby", after="", limit=9, max_bytes=most)
        assert (len(found), left) == (count, True)
    kept = rows.get("lobby", "j1").gate
    assert kept is not None
    assert kept.reasons[-1] == "68 more: see gate.json"
    assert kept.reasons[0].endswith(smile + "...")


def test_cancelling(rows: JobRows) -> None:
    rows.add("waits", "lobby", SPEC, NOW).result(10)
    gone = rows.cancel("lobby", "waits", NOW).result(10)
    assert (gone.state, gone.ended) == (JobState.CANCELLED, NOW)
    assert rows.cancel("lobby", "waits", NOW).result(10) == gone
    assert rows.begin(gone, NOW).result(10).state is JobState.CANCELLED
    job = rows.add("runs", "lobby", SPEC, NOW).result(10)
    rows.begin(job, NOW).result(10)
    asked = rows.cancel("lobby", "runs", NOW).result(10)
    assert (asked.state, asked.cancel) == (JobState.RUNNING, True)
    rows.finish(job, JobResult(JobState.SUCCEEDED, model="lobby@1"), NOW).result(10)
    with pytest.raises(AdaptationOverError):
        rows.cancel("lobby", "runs", NOW).result(10)


def test_what_is_not_there(rows: JobRows) -> None:
    for call in (
        lambda: rows.get("lobby", "none"),
        lambda: rows.cancel("lobby", "none", NOW).result(10),
    ):
        with pytest.raises(AdaptationNotFoundError):
            call()
    calls: list[Callable[[], object]] = [
        lambda: rows.get("nowhere", "none"),
        lambda: rows.page("nowhere", after="", limit=1),
        lambda: rows.add("j", "nowhere", SPEC, NOW).result(10),
    ]
    for missing in calls:
        with pytest.raises(SiteNotFoundError):
            missing()


def test_crops_come_without_any_identity(rows: JobRows, enroll: Callable[..., None]) -> None:
    enroll("named-ann", person="Ann", track="t1", attributes={"who": "Ann"})
    enroll("no crop", image=None)
    seen = [crop for chunk in rows.kept_crops("lobby") for crop in chunk]
    assert [(crop.camera, crop.track) for crop in seen] == [
        ("door", ""),
        ("yard", ""),
        ("door", "t1"),
    ]
    assert "Ann" not in repr(seen)
    assert "ann" not in repr(seen)
