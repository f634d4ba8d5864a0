from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.registry import Registry
from service.errors import OverloadedError, ShuttingDownError, SiteNotFoundError
from service.jobs.api import MAX_WATCHES, Adaptations
from service.jobs.folder import JobFolder
from service.jobs.records import Adaptation, AdaptationSpec, JobResult, JobState
from service.jobs.rows import JobRows
from service.jobs.runner import JobSetup
from service.jobs.supervisor import Supervisor
from service.operations.metrics import Metrics
from service.store.store import Store
from tests.service.jobs.conftest import NOW, ONE
from tests.support.fake_process import FakeStarter
from tests.support.held_commit import HeldCommit

POLL_S = 0.002


@pytest.fixture
def starter() -> FakeStarter:
    return FakeStarter()


@pytest.fixture
def adaptations(
    rows: JobRows, metrics: Metrics, tmp_path: Path, starter: FakeStarter
) -> Adaptations:
    """None is worked on: what is in their folders is what a test writes there."""
    setup = JobSetup(
        inits=(tmp_path / "init",),
        sources=(),
        device="cpu",
        hold_back=0.0,
        stop_s=1.0,
        own_model="a@1",
    )
    supervisor = Supervisor(
        rows,
        tmp_path / "jobs",
        Registry(tmp_path / "registry"),
        setup,
        in_use=lambda site: None,
        start=starter,
        clock=lambda: NOW,
        metrics=metrics,
    )
    return Adaptations(
        rows, supervisor, setup, clock=lambda: NOW, new_id=lambda: "abcdef", poll_s=POLL_S
    )


FIRST = json.dumps({"round": 1, "labels": "", "warnings": []}) + "\n"


def write_rounds(folder: JobFolder, numbers: Sequence[int]) -> None:
    """All of them at once, as a run does that goes back."""
    (folder.path / "run").mkdir(parents=True, exist_ok=True)
    lines = "".join(
        json.dumps({"round": number, "labels": "", "warnings": []}) + "\n" for number in numbers
    )
    hidden = folder.path / "run" / "new"
    hidden.write_text(lines)
    hidden.rename(folder.path / "run" / "metrics.jsonl")


@pytest.fixture
async def working(
    adaptations: Adaptations, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Adaptations]:
    """Adaptations whose supervisor has found nothing to do, and waits."""
    waits = asyncio.Event()
    count = Supervisor.count

    async def counted(supervisor: Supervisor) -> list[Adaptation]:
        found = await count(supervisor)
        waits.set()
        return found

    monkeypatch.setattr(Supervisor, "count", counted)
    adaptations.begin()
    async with asyncio.timeout(10):
        await waits.wait()
    yield adaptations
    await adaptations.stop()


async def leave_during_the_commit(
    commit: HeldCommit, call: Coroutine[Any, Any, Adaptation]
) -> None:
    commit.hold()
    calling = asyncio.create_task(call)
    await commit.entered()
    calling.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    commit.release()
    with pytest.raises(asyncio.CancelledError):
        await calling


def gauges(metrics: Metrics) -> list[float | None]:
    """How many are pending, and how many run."""
    return [
        metrics.registry.get_sample_value("resight_adaptations", {"state": state})
        for state in ("pending", "running")
    ]


async def test_one_runs_although_its_caller_leaves_during_the_commit(
    working: Adaptations, starter: FakeStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = HeldCommit(monkeypatch)
    await leave_during_the_commit(
        commit, working.start("lobby", AdaptationSpec("mmt", "mmt_small"))
    )
    await starter.number(1)
    (job,), _ = await working.page("lobby", after="", limit=5, max_bytes=1_000_000)
    assert job.state is JobState.RUNNING


async def test_one_is_cancelled_although_its_caller_leaves_during_the_commit(
    working: Adaptations, starter: FakeStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await working.start("lobby", AdaptationSpec("mmt", "mmt_small"))
    process = await starter.number(1)
    commit = HeldCommit(monkeypatch)
    await leave_during_the_commit(commit, working.cancel("lobby", job.id))
    async with asyncio.timeout(10):
        while (await working.get("lobby", job.id))[0].state is JobState.RUNNING:
            await asyncio.sleep(POLL_S)
    assert process.said == ["terminate"]
    assert (await working.get("lobby", job.id))[0].state is JobState.CANCELLED


async def test_those_that_wait_are_counted_although_their_callers_leave(
    working: Adaptations,
    starter: FakeStarter,
    enroll: Callable[..., None],
    store: Store,
    metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While another one runs, the supervisor itself counts them only hours later."""
    store.create_site("yard", ONE, NOW, lambda _: None).result(10)
    enroll("c", site="yard")
    await working.start("lobby", AdaptationSpec("mmt", "mmt_small"))
    await starter.number(1)
    monkeypatch.setattr(working, "_new_id", lambda: "fedcba")
    commit = HeldCommit(monkeypatch)
    await leave_during_the_commit(commit, working.start("yard", AdaptationSpec("mmt", "mmt_small")))
    assert gauges(metrics) == [1, 1]


async def test_damaged_figures_do_not_hide_the_state(
    adaptations: Adaptations, rows: JobRows, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = await adaptations.start("lobby", AdaptationSpec("mmt", "mmt_small"))
    folder = JobFolder(tmp_path / "jobs" / job.id)
    write_rounds(folder, [1, 2])
    (folder.run / "metrics.jsonl").write_text(FIRST + '{"rou\n' + FIRST)
    rows.finish(job, JobResult(JobState.FAILED, "DIVERGED", "nan"), NOW).result(10)
    found, rounds = await adaptations.get("lobby", job.id)
    assert (found.state, found.reason, rounds) == (JobState.FAILED, "DIVERGED", [])
    assert found.rounds_error == "the rounds of the run cannot be read; the server's log says why"
    assert [told async for told in adaptations.watch("lobby", job.id)] == [(found, None)]
    (message,) = caplog.messages
    assert f"{folder.run / 'metrics.jsonl'} is damaged in line 2" in message


async def test_rounds_that_are_lost_are_told_once_the_adaptation_is_over(
    adaptations: Adaptations, rows: JobRows, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = await adaptations.start("lobby", AdaptationSpec("mmt", "mmt_small"))
    folder = JobFolder(tmp_path / "jobs" / job.id)
    write_rounds(folder, [1])
    (folder.run / "run.json").write_text('{"rounds": 2}')
    found, rounds = await adaptations.get("lobby", job.id)
    assert (len(rounds), found.rounds_error) == (1, ""), "the run, resumed, makes up for it"
    rows.finish(job, JobResult(JobState.SUCCEEDED, model="lobby@2"), NOW).result(10)
    found, rounds = await adaptations.get("lobby", job.id)
    assert (found.state, rounds) == (JobState.SUCCEEDED, [])
    assert found.rounds_error == "the rounds of the run cannot be read; the server's log says why"
    (message,) = caplog.messages
    assert f"{folder.run / 'metrics.jsonl'} is damaged: it has 1 of 2 lines" in message


async def test_a_watch_tells_once_that_the_rounds_cannot_be_read(
    adaptations: Adaptations, rows: JobRows, tmp_path: Path
) -> None:
    job = await adaptations.start("lobby", AdaptationSpec("mmt", "mmt_small"))
    folder = JobFolder(tmp_path / "jobs" / job.id)
    told: list[tuple[JobState, bool, bool]] = []

    async def watch() -> None:
        async for each, round_ in adaptations.watch("lobby", job.id):
            told.append((each.state, bool(each.rounds_error), round_ is not None))

    watching = asyncio.create_task(watch())
    async with asyncio.timeout(10):
        for length, line in ((2, FIRST), (3, FIRST + "{\n")):
            folder.run.mkdir(parents=True, exist_ok=True)
            (folder.run / "metrics.jsonl").write_text(line)
            while len(told) < length:
                await asyncio.sleep(POLL_S)
        await asyncio.sleep(10 * POLL_S)
        rows.finish(job, JobResult(JobState.FAILED), NOW).result(10)
        await watching
    assert sorted(told[:2]) == [(JobState.PENDING, False, False), (JobState.PENDING, False, True)]
    assert told[2:] == [(JobState.PENDING, True, False), (JobState.FAILED, True, False)]


async def test_a_round_that_is_done_over_again_is_told_once(
    adaptations: Adaptations, rows: JobRows, tmp_path: Path
) -> None:
    job = await adaptations.start("lobby", AdaptationSpec("mmt", "mmt_small"))
    folder = JobFolder(tmp_path / "jobs" / job.id)
    write_rounds(folder, [1, 2])
    told: list[int] = []

    async def watch() -> None:
        async for _, round_ in adaptations.watch("lobby", job.id):
            if round_ is not None:
                told.append(round_.number)

    watching = asyncio.create_task(watch())
    async with asyncio.timeout(10):
        while told != [1, 2]:
            await asyncio.sleep(POLL_S)
        for rounds in (
            [1],
            [1, 2],
            [1, 2, 3],
        ):  # it crashed in round 3, and was resumed from round 1
            write_rounds(folder, rounds)
            await asyncio.sleep(0.2)
        rows.finish(job, JobResult(JobState.FAILED), NOW).result(10)
        await watching
    assert told == [1, 2, 3]


async def _ended(watching: list[asyncio.Task[None]]) -> None:
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)


async def test_all_who_watch_one_adaptation_share_its_reads(
    adaptations: Adaptations, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await adaptations.start("lobby", AdaptationSpec("mmt", "mmt_small"))
    reads, told, get, loop = [0.0], [0], adaptations.get, asyncio.get_running_loop()

    async def counted(site: str, adaptation: str, after: int = 0) -> Any:
        reads.append(loop.time())
        return await get(site, adaptation, after)

    async def watch() -> None:
        async for _ in adaptations.watch("lobby", job.id):
            told[0] += 1

    monkeypatch.setattr(adaptations, "get", counted)
    watching = [asyncio.create_task(watch()) for _ in range(MAX_WATCHES)]
    async with asyncio.timeout(10):
        while told[0] < MAX_WATCHES:
            await asyncio.sleep(POLL_S)
        begun, before = loop.time(), len(reads)
        while len(reads) < before + 20:
            await asyncio.sleep(POLL_S)
    assert len(reads) - before <= (loop.time() - begun) / POLL_S + 1
    await _ended(watching)


async def test_a_watch_that_comes_when_a_read_is_just_over_waits_for_the_next(
    adaptations: Adaptations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The read that was over was given to it again and again: it held up all of the server."""
    job = await adaptations.start("lobby", AdaptationSpec("mmt", "mmt_small"))
    late: list[asyncio.Task[list[JobState]]] = []
    states = iter([JobState.PENDING, JobState.RUNNING, JobState.PENDING, JobState.FAILED])

    async def two_steps() -> list[JobState]:
        watch = adaptations.watch("lobby", job.id)
        told = [(await anext(watch))[0].state, (await anext(watch))[0].state]
        await watch.aclose()
        return told

    async def get(*_: object) -> Any:
        state = next(states, JobState.FAILED)
        if state is JobState.RUNNING:  # the one that comes runs before the end of this read
            late.append(asyncio.create_task(two_steps()))
        return replace(job, state=state), []

    monkeypatch.setattr(adaptations, "get", get)
    first = adaptations.watch("lobby", job.id)
    assert [(await anext(first))[0].state for _ in range(2)] == [JobState.PENDING, JobState.RUNNING]
    assert await late[0] == [JobState.PENDING, JobState.FAILED]
    await first.aclose()


async def test_an_adaptation_is_watched_by_so_many_at_a_time(
    adaptations: Adaptations, rows: JobRows
) -> None:
    job = await adaptations.start("lobby", AdaptationSpec("mmt", "mmt_small"))
    open_ = [adaptations.watch("lobby", job.id) for _ in range(MAX_WATCHES)]
    for watch in open_:
        await anext(watch)
    with pytest.raises(OverloadedError, match="GetAdaptation"):
        await anext(adaptations.watch("lobby", job.id))
    await open_[0].aclose()
    again = adaptations.watch("lobby", job.id)
    assert (await anext(again))[0].state is JobState.PENDING
    rows.finish(job, JobResult(JobState.FAILED), NOW).result(10)
    for watch in (*open_[1:], again):
        assert [step.state async for step, _ in watch] == [JobState.FAILED]
    assert not adaptations._watches


async def test_a_read_that_fails_with_nobody_left_is_no_error(
    adaptations: Adaptations, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await adaptations.start("lobby", AdaptationSpec("mmt", "mmt_small"))
    watch = adaptations.watch("lobby", job.id)
    await anext(watch)
    failed = asyncio.Event()

    async def gone(*_: object) -> None:
        failed.set()
        raise SiteNotFoundError("there is no site lobby")

    monkeypatch.setattr(adaptations, "get", gone)
    leaving = asyncio.ensure_future(anext(watch))
    while not adaptations._reads:
        await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])
    await failed.wait()
    async with asyncio.timeout(10):
        while adaptations._reads:
            await asyncio.sleep(0.01)
    del leaving, watch
    gc.collect()  # of an error that nobody asked for, asyncio tells when its task is freed
    assert not caplog.records


async def test_the_end_of_the_server_ends_all_watches(
    adaptations: Adaptations, caplog: pytest.LogCaptureFixture
) -> None:
    job = await adaptations.start("lobby", AdaptationSpec("mmt", "mmt_small"))
    gone, *watches = [adaptations.watch("lobby", job.id) for _ in range(3)]
    for watch in (gone, *watches):
        await anext(watch)
    leaving = asyncio.ensure_future(anext(gone))
    waiting = [asyncio.ensure_future(anext(watch)) for watch in watches]
    await asyncio.sleep(0)
    leaving.cancel()
    await adaptations.stop()
    for wait in waiting:
        with pytest.raises(ShuttingDownError):
            await wait
    assert not caplog.records
