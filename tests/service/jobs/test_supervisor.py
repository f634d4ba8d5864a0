"""The supervisor in front of processes that do what a test says."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from models.bundle import Bundle
from models.job_contract import GateVerdict
from models.registry import ModelReference, Registry
from service.errors import DamagedRowError, StoreFullError
from service.jobs.records import Adaptation, AdaptationSpec, JobResult, JobState
from service.jobs.rows import JobRows
from service.jobs.runner import JobSetup
from service.jobs.supervisor import Supervisor
from service.operations.metrics import Metrics
from service.store.records import SeenCrop
from service.store.store import Store
from service.types import ModelInUse
from tests.service.jobs.conftest import NOW, ONE
from tests.support.fake_process import FakeProcess, FakeStarter
from tests.support.tiny_model import write_tiny_bundle

SPEC = AdaptationSpec("mmt", "mmt_small", ("optimizer.lr=1e-4",), 7)


@pytest.fixture
def starter() -> FakeStarter:
    return FakeStarter()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


@pytest.fixture
async def start(
    rows: JobRows, starter: FakeStarter, registry: Registry, metrics: Metrics, tmp_path: Path
) -> AsyncIterator[Callable[..., Supervisor]]:
    """A supervisor that works; several may follow each other, like the starts of a server."""
    made: list[Supervisor] = []

    def started(
        bundle: Path | None = None,
        stop_s: float = 5.0,
        hold_back: float = 0.2,
        own: str = "source@1",
        rows: JobRows = rows,
        restart_delays_s: tuple[float, ...] = (0.0, 0.0),
    ) -> Supervisor:
        setup = JobSetup(
            inits=(tmp_path / "init",),
            sources=(tmp_path / "source",),
            device="cpu",
            hold_back=hold_back,
            stop_s=stop_s,
            own_model=own,
            restart_delays_s=restart_delays_s,
        )
        supervisor = Supervisor(
            rows,
            tmp_path / "jobs",
            registry,
            setup,
            in_use=lambda site: None if bundle is None else ModelInUse("tiny@1", bundle),
            start=starter,
            clock=lambda: NOW,
            metrics=metrics,
        )
        supervisor.begin()
        made.append(supervisor)
        return supervisor

    yield started
    for supervisor in made:
        await supervisor.stop()


def add(
    rows: JobRows, job: str = "j1", spec: AdaptationSpec = SPEC, site: str = "lobby"
) -> Adaptation:
    return rows.add(job, site, spec, NOW).result(10)


async def over(rows: JobRows, job: str = "j1", site: str = "lobby") -> Adaptation:
    """The adaptation once it is over."""
    async with asyncio.timeout(10):
        while not (found := rows.get(site, job)).state.over:
            await asyncio.sleep(0.005)
    return found


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


async def test_from_crops_to_a_registered_model(
    rows: JobRows, starter: FakeStarter, registry: Registry, start: Any, metrics: Metrics,
    tmp_path: Path,
) -> None:  # fmt: skip
    supervisor = start()
    add(rows)
    supervisor.changed()
    process = await starter.number(1)
    assert (process.module, process.arguments) == (
        "adapt",
        ["train", str(tmp_path / "jobs" / "j1")],
    )
    assert process.job == {
        "method": "mmt",
        "recipe": "mmt_small",
        "overrides": ["optimizer.lr=1e-4"],
        "seed": 7,
        "device": "cpu",
        "inits": [str(tmp_path / "init")],
        "sources": [],
        "hold_back": 0.2,
        "name": "lobby",
        "version": "1",
    }
    assert len(list((process.folder / "crops").rglob("*.jpg"))) == 2
    assert rows.get("lobby", "j1").state is JobState.RUNNING
    assert value(metrics, "resight_adaptations", state="running") == 1
    process.succeed()
    done = await over(rows)
    assert (done.state, done.model, done.gate) == (
        JobState.SUCCEEDED,
        "lobby@1",
        None,
    )
    assert registry.resolve("lobby@1").reference == "lobby@1"
    await eventually(lambda: not (process.folder / "crops").exists())
    await eventually(lambda: not (process.folder / "bundle").exists())
    assert value(metrics, "resight_adaptations_ended_total", outcome="succeeded") == 1
    await eventually(lambda: value(metrics, "resight_adaptations", state="running") == 0)


async def test_the_gate_compares_with_the_model_in_use(
    rows: JobRows, starter: FakeStarter, start: Any, tiny_bundle: Bundle, registry: Registry
) -> None:
    add(rows)
    start(bundle=tiny_bundle.path)
    process = await starter.number(1)
    process.succeed()
    gate = await starter.number(2)
    assert gate.module == "adapt"
    assert gate.arguments == [
        *("gate", str(process.folder)),
        *("--old", str(tiny_bundle.path), "--device", "cpu"),
    ]
    gate.judge("reject", "worse in all")
    done = await over(rows)
    assert (done.state, done.model) == (JobState.SUCCEEDED, "lobby@1")
    assert done.gate == GateVerdict(verdict="reject", reasons=("worse in all",))
    kept = json.loads((registry.root / "lobby" / "1.gate.json").read_text())
    assert kept == {
        "adaptation": "sites/lobby/adaptations/j1",
        "against": "tiny@1",
        "verdict": "reject",
        "reasons": ["worse in all"],
    }


async def test_a_setting_without_crops_held_back_reaches_the_job(
    rows: JobRows, starter: FakeStarter, start: Any, tiny_bundle: Bundle
) -> None:
    add(rows)
    start(bundle=tiny_bundle.path, hold_back=0.0)
    process = await starter.number(1)
    assert process.job["hold_back"] == 0
    process.succeed()
    gate = await starter.number(2)
    gate.judge("promote")
    assert (await over(rows)).gate == GateVerdict(verdict="promote")


@pytest.mark.parametrize(("crops", "hold_back", "seen"),
                         [(499, 0.2, 99), (500, 0.2, 0), (99, 0.0, 99), (100, 0.0, 0)])  # fmt: skip
async def test_too_few_crops_for_the_gate_are_told_at_once(
    rows: JobRows, store: Store, starter: FakeStarter, start: Any, caplog: pytest.LogCaptureFixture,
    crops: int, hold_back: float, seen: int,
) -> None:  # fmt: skip
    add(rows)
    start(rows=ManyRows(store, crops), hold_back=hold_back)
    await starter.number(1)
    told = [each for each in caplog.messages if "it says hold" in each]
    assert bool(told) == bool(seen)
    assert all(f"of {crops} crops the gate sees some {seen}; below 100" in each for each in told)


@pytest.mark.parametrize(("begun", "now"), [(0.2, 0.0), (0.2, 0.5), (0.0, 0.2)])
async def test_the_gate_judges_by_what_was_held_back_when_it_began(
    rows: JobRows, starter: FakeStarter, start: Any, tiny_bundle: Bundle, begun: float, now: float
) -> None:
    add(rows)
    first = start(bundle=tiny_bundle.path, hold_back=begun)
    await starter.number(1)
    await first.stop()
    start(bundle=tiny_bundle.path, hold_back=now)
    (await starter.number(2)).succeed()
    gate = await starter.number(3)
    assert gate.job["hold_back"] == begun, "the gate reads it there"
    gate.judge("promote")


@pytest.mark.parametrize("full_disk", [True, False])
async def test_a_gate_that_ends_early_is_started_again(
    rows: JobRows, starter: FakeStarter, start: Any, tiny_bundle: Bundle, full_disk: bool
) -> None:
    add(rows)
    start(bundle=tiny_bundle.path, restart_delays_s=(0.0, 0.0))
    (await starter.number(1)).succeed()
    for number in (2, 3):
        gate = await starter.number(number)
        assert gate.arguments[0] == "gate"
        if full_disk:
            gate.stop("RUN_FOLDER_UNWRITABLE", "the disk is full")
        else:
            gate.end(-9)
    (await starter.number(4)).judge("promote")
    done = await over(rows)
    assert (done.state, done.model) == (JobState.SUCCEEDED, "lobby@1")
    assert done.gate == GateVerdict(verdict="promote")


async def test_a_gate_that_gives_no_verdict_leaves_one_that_blocks(
    rows: JobRows, starter: FakeStarter, start: Any, tiny_bundle: Bundle, registry: Registry
) -> None:
    add(rows)
    start(bundle=tiny_bundle.path, restart_delays_s=(0.0,))
    (await starter.number(1)).succeed()
    for number, output in ((2, "first"), (3, "Killed: out of memory")):
        gate = await starter.number(number)
        gate.log.write_text(output)
        gate.end(-9)
    done = await over(rows)
    error = "the gate ended with exit code -9: Killed: out of memory"
    assert (done.state, done.model) == (JobState.SUCCEEDED, "lobby@1")
    assert done.gate == GateVerdict(verdict="unjudged", reasons=(error,))
    kept = json.loads((registry.root / "lobby" / "1.gate.json").read_text())
    assert kept == {
        "adaptation": "sites/lobby/adaptations/j1",
        "against": "tiny@1",
        "verdict": "unjudged",
        "reasons": [error],
    }
    assert registry.gate_record(ModelReference("lobby", "1")).blocks_activation
    assert len(starter.started) == 3


async def test_a_gate_that_fails_for_good_is_not_started_again(
    rows: JobRows, starter: FakeStarter, start: Any, tiny_bundle: Bundle
) -> None:
    add(rows)
    start(bundle=tiny_bundle.path)
    (await starter.number(1)).succeed()
    (await starter.number(2)).fail("DATA_INVALID", "no crops")
    done = await over(rows)
    assert done.gate is not None
    assert (done.gate.verdict, len(starter.started)) == ("unjudged", 2)
    assert done.gate.reasons == ("the gate ended with exit code 1: no crops",)


async def test_a_site_without_a_model_needs_no_verdict(
    rows: JobRows, starter: FakeStarter, start: Any, registry: Registry
) -> None:
    add(rows)
    start()
    (await starter.number(1)).succeed()
    assert (await over(rows)).gate is None
    assert not registry.gate_record(ModelReference("lobby", "1")).blocks_activation


@pytest.mark.parametrize("file", ["gate.json", "outcome.json", "run/metrics.jsonl"])
async def test_a_damaged_file_is_not_taken_for_an_absent_one(
    rows: JobRows, starter: FakeStarter, start: Any, tiny_bundle: Bundle, registry: Registry,
    file: str,
) -> None:  # fmt: skip
    add(rows)
    start(bundle=tiny_bundle.path, restart_delays_s=(0.0,))
    process = await starter.number(1)
    if file == "gate.json":
        process.succeed()
        process = await starter.number(2)
    (process.folder / file).parent.mkdir(exist_ok=True)
    (process.folder / file).write_text('{"verdict": "rej\n')
    process.end(0)
    done = await over(rows)
    assert (done.state, done.reason) == (JobState.FAILED, "JOB_FOLDER_UNUSABLE")
    assert f"{process.folder / file} is damaged" in done.error
    assert registry.references() == (), "a model without a verdict needs no force"


async def test_a_run_whose_job_is_lost_is_kept_and_the_adaptation_fails(
    rows: JobRows, starter: FakeStarter, start: Any, tmp_path: Path
) -> None:
    add(rows)
    first = start()
    process = await starter.number(1)
    network = process.folder / "run" / "model.safetensors"
    network.parent.mkdir()
    network.write_bytes(b"weeks")
    await first.stop()
    (process.folder / "job.json").unlink()
    start()
    done = await over(rows)
    assert (done.state, done.reason) == (JobState.FAILED, "JOB_FOLDER_UNUSABLE")
    assert "has a run but no job.json" in done.error
    assert network.read_bytes() == b"weeks"
    assert len(starter.started) == 1


async def test_what_an_earlier_gate_said_does_not_count(
    rows: JobRows, starter: FakeStarter, start: Any, tiny_bundle: Bundle
) -> None:
    add(rows)
    first = start(bundle=tiny_bundle.path)
    process = await starter.number(1)
    process.succeed()
    gate = await starter.number(2)
    (gate.folder / "gate.json").write_text('{"verdict": "promote", "reasons": []}')
    await first.stop()
    assert rows.get("lobby", "j1").state is JobState.RUNNING
    start(bundle=tiny_bundle.path)
    (await starter.number(3)).succeed()
    (await starter.number(4)).fail("DATA_INVALID", "no crops")
    done = await over(rows)
    assert done.gate is not None
    assert done.gate.verdict == "unjudged"


async def test_versions_go_on(
    rows: JobRows, starter: FakeStarter, registry: Registry, start: Any
) -> None:
    starter.script = FakeProcess.succeed
    supervisor = start()
    for number in (1, 2, 3):
        add(rows, f"j{number}")
        supervisor.changed()
        assert (await over(rows, f"j{number}")).model == f"lobby@{number}"


async def test_a_model_never_goes_by_the_name_of_the_servers_own(
    rows: JobRows, starter: FakeStarter, start: Any
) -> None:
    add(rows)
    start(own="lobby@4")
    (await starter.number(1)).succeed()
    assert (await over(rows)).model == "lobby@5"


async def test_sources_are_for_methods_that_learn_from_them(
    rows: JobRows, starter: FakeStarter, start: Any, tmp_path: Path
) -> None:
    add(rows, spec=AdaptationSpec("daal", "daal"))
    start()
    process = await starter.number(1)
    assert process.job["sources"] == [str(tmp_path / "source")]
    process.succeed()


async def test_why_it_failed_is_kept(rows: JobRows, starter: FakeStarter, start: Any) -> None:
    add(rows)
    start()
    (await starter.number(1)).fail("CLUSTERS_COLLAPSED", "only outliers")
    done = await over(rows)
    assert (done.state, done.reason, done.error, done.model) == (
        JobState.FAILED,
        "CLUSTERS_COLLAPSED",
        "only outliers",
        "",
    )


async def test_a_process_that_dies_is_started_again_but_not_for_ever(
    rows: JobRows, starter: FakeStarter, start: Any
) -> None:
    add(rows)
    start(restart_delays_s=(0.0, 0.0))
    for number in (1, 2, 3):
        process = await starter.number(number)
        process.log.write_text("starting\nKilled: out of memory\n")
        process.end(-9)
    done = await over(rows)
    assert (done.state, done.reason) == (JobState.FAILED, "PROCESS_DIED")
    assert "3 processes in a row" in done.error
    assert "exit code -9 (Killed: out of memory)" in done.error
    assert len(starter.started) == 3


async def test_a_process_that_can_go_on_is_started_again_but_not_for_ever(
    rows: JobRows, starter: FakeStarter, start: Any
) -> None:
    add(rows)
    start(restart_delays_s=(0.0, 0.0))
    for number in (1, 2, 3):
        process = await starter.number(number)
        process.stop("RUN_FOLDER_UNWRITABLE", "the disk is full; make room there")
    done = await over(rows)
    assert (done.state, done.reason) == (JobState.FAILED, "RUN_FOLDER_UNWRITABLE")
    assert done.error.startswith("the disk is full; make room there (3 processes in a row")
    assert "start another adaptation" in done.error
    assert len(starter.started) == 3


async def test_what_does_not_mend_itself_is_not_tried_again(
    rows: JobRows, starter: FakeStarter, start: Any
) -> None:
    add(rows)
    start(restart_delays_s=(0.0, 0.0))
    process = await starter.number(1)
    process.keep_state()
    process.fail("RUN_FOLDER_UNUSABLE", "the checkpoint is damaged")
    assert (await over(rows)).reason == "RUN_FOLDER_UNUSABLE"
    assert len(starter.started) == 1


async def test_a_disk_that_was_full_for_a_moment_ends_nothing(
    rows: JobRows, starter: FakeStarter, start: Any
) -> None:
    add(rows)
    start(restart_delays_s=(0.05,))
    process = await starter.number(1)
    process.keep_state()
    process.stop("RUN_FOLDER_UNWRITABLE", "the disk is full")
    again = await starter.number(2)
    assert rows.get("lobby", "j1").state is JobState.RUNNING
    assert (again.folder / "run" / "checkpoint.safetensors").exists()
    assert (again.folder / "crops").exists()
    again.succeed()
    assert (await over(rows)).model == "lobby@1"


NO_ROOM = OSError(errno.EAGAIN, "Resource temporarily unavailable")


async def test_a_process_that_cannot_be_started_is_tried_again(
    rows: JobRows, starter: FakeStarter, start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    starter.refusals = [NO_ROOM]
    starter.script = FakeProcess.succeed
    add(rows)
    start(restart_delays_s=(0.0,))
    assert (await over(rows)).model == "lobby@1"
    assert "its process could not be started ([Errno 11] Resource temporarily" in caplog.text


async def test_a_process_that_cannot_be_started_is_not_tried_for_ever(
    rows: JobRows, starter: FakeStarter, start: Any
) -> None:
    starter.refusals = [NO_ROOM] * 2
    add(rows)
    start(restart_delays_s=(0.0,))
    done = await over(rows)
    assert (done.state, done.reason) == (JobState.FAILED, "PROCESS_DIED")
    assert "2 processes in a row finished no round, the last one could not be started" in done.error
    assert starter.refusals == []


async def test_a_gate_that_cannot_be_started_is_tried_again_but_not_for_ever(
    rows: JobRows, starter: FakeStarter, start: Any, tiny_bundle: Bundle,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    add(rows)
    start(bundle=tiny_bundle.path, restart_delays_s=(0.0,))
    process = await starter.number(1)
    starter.refusals = [NO_ROOM] * 2
    process.succeed()
    done = await over(rows)
    assert (done.state, done.model) == (JobState.SUCCEEDED, "lobby@1")
    assert done.gate is not None
    assert done.gate.verdict == "unjudged"
    assert starter.refusals == []
    assert "the gate of adaptation j1 is started again in 0 s; the gate could not be" in caplog.text
    assert "adaptation j1 has no verdict; the gate could not be started" in caplog.text


async def test_rounds_of_before_a_restart_are_no_step_forward(
    rows: JobRows, starter: FakeStarter, start: Any
) -> None:
    add(rows)
    first = start()
    process = await starter.number(1)
    process.finish_round(1)
    await first.stop()
    start(restart_delays_s=(0.0,))
    for number in (2, 3):
        (await starter.number(number)).end(-9)
    assert (await over(rows)).reason == "PROCESS_DIED"
    assert len(starter.started) == 3


async def test_who_finishes_rounds_may_die_more_often(
    rows: JobRows, starter: FakeStarter, start: Any
) -> None:
    add(rows)
    start(restart_delays_s=(0.0,))
    for number in (1, 2, 3, 4):
        process = await starter.number(number)
        process.finish_round(number)
        process.end(-9)
    for number in (5, 6):
        (await starter.number(number)).end(-9)
    done = await over(rows)
    assert (done.state, done.reason) == (JobState.FAILED, "PROCESS_DIED")
    assert len(starter.started) == 6


async def test_a_round_that_is_done_over_again_is_no_step_forward(
    rows: JobRows, starter: FakeStarter, start: Any
) -> None:
    add(rows)
    start(restart_delays_s=(0.0,))
    process = await starter.number(1)
    process.finish_round(1)
    process.finish_round(2)
    process.end(-9)
    for number, rounds in ((2, 1), (3, 2)):
        process = await starter.number(number)
        (process.folder / "run" / "metrics.jsonl").unlink()
        for again in range(rounds):
            process.finish_round(again + 1)
        process.end(-9)
    await over(rows)
    assert len(starter.started) == 3


@pytest.mark.parametrize("cancel", [True, False])
async def test_nobody_waits_for_a_pause(
    rows: JobRows,
    starter: FakeStarter,
    start: Any,
    monkeypatch: pytest.MonkeyPatch,
    cancel: bool,
) -> None:
    pauses = asyncio.Event()
    pause = Supervisor._pause

    async def seen(supervisor: Supervisor, seconds: float) -> None:
        pauses.set()
        await pause(supervisor, seconds)

    monkeypatch.setattr(Supervisor, "_pause", seen)
    add(rows)
    supervisor = start(restart_delays_s=(3600.0,))
    process = await starter.number(1)
    process.end(-9)
    async with asyncio.timeout(10):
        await pauses.wait()
    if cancel:
        rows.cancel("lobby", "j1", NOW).result(10)
        supervisor.changed(cancelled="j1")
        assert (await over(rows)).state is JobState.CANCELLED
    else:
        async with asyncio.timeout(5):
            await supervisor.stop()
        assert rows.get("lobby", "j1").state is JobState.RUNNING
    assert len(starter.started) == 1


async def test_a_stop_of_the_server_ends_nothing(
    rows: JobRows, starter: FakeStarter, start: Any
) -> None:
    add(rows)
    first = start()
    process = await starter.number(1)
    await first.stop()
    assert process.said == ["terminate"]
    assert rows.get("lobby", "j1").state is JobState.RUNNING
    before = sorted((process.folder / "crops").rglob("*"))
    assert before
    start()
    again = await starter.number(2)
    assert again.arguments == process.arguments
    assert sorted((again.folder / "crops").rglob("*")) == before
    again.succeed()
    assert (await over(rows)).state is JobState.SUCCEEDED


async def test_a_process_that_does_not_listen_is_killed(
    rows: JobRows, starter: FakeStarter, start: Any
) -> None:
    add(rows)
    supervisor = start(stop_s=0.01)
    process = await starter.number(1)
    process.deaf = True
    await supervisor.stop()
    assert process.said == ["terminate", "kill"]
    assert rows.get("lobby", "j1").state is JobState.RUNNING


async def test_cancelling_ends_the_process(rows: JobRows, starter: FakeStarter, start: Any) -> None:
    add(rows)
    supervisor = start()
    process = await starter.number(1)
    process.finish_round(1)
    process.keep_state()
    rows.cancel("lobby", "j1", NOW).result(10)
    supervisor.changed(cancelled="j1")
    assert (await over(rows)).state is JobState.CANCELLED
    assert process.said == ["terminate"]
    await eventually(lambda: not (process.folder / "crops").exists())
    run = process.folder / "run"
    await eventually(lambda: {path.name for path in run.iterdir()} == {"metrics.jsonl"})


async def test_cancelling_another_one_does_not(
    rows: JobRows, starter: FakeStarter, start: Any
) -> None:
    add(rows)
    supervisor = start()
    process = await starter.number(1)
    supervisor.changed(cancelled="other")
    process.succeed()
    assert (await over(rows)).state is JobState.SUCCEEDED
    assert process.said == []


async def test_one_that_was_cancelled_before_a_crash_is_not_begun_again(
    rows: JobRows, starter: FakeStarter, start: Any
) -> None:
    job = add(rows)
    rows.begin(job, NOW).result(10)
    rows.cancel("lobby", "j1", NOW).result(10)
    start()
    assert (await over(rows)).state is JobState.CANCELLED
    assert starter.started == []


async def test_one_at_a_time(
    rows: JobRows, starter: FakeStarter, start: Any, enroll: Callable[..., None], store: Any
) -> None:
    store.create_site("yard", "1" * 64, NOW, lambda _: None).result(10)
    enroll("x", site="yard")
    add(rows)
    add(rows, "j2", site="yard")
    start()
    first = await starter.number(1)
    assert rows.get("yard", "j2").state is JobState.PENDING
    first.succeed()
    second = await starter.number(2)
    assert second.folder.name == "j2"
    second.succeed()
    assert (await over(rows, "j2", "yard")).model == "yard@1"


async def test_a_version_that_was_taken_meanwhile(
    rows: JobRows, starter: FakeStarter, start: Any, registry: Registry, tmp_path: Path
) -> None:
    add(rows)
    start()
    process = await starter.number(1)
    registry.add(write_tiny_bundle(tmp_path / "other", name="lobby", shift=9.0).path)
    process.succeed()
    done = await over(rows)
    assert (done.state, done.reason) == (JobState.FAILED, "REGISTRY_REFUSED")
    assert f"resight export --run {process.folder / 'run'}" in done.error


async def test_a_disk_that_is_full_as_the_model_is_registered_loses_no_verdict(
    rows: JobRows, starter: FakeStarter, start: Any, tiny_bundle: Bundle, registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It was registered by hand then, without its verdict."""
    full = [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) for _ in range(2)]
    register = Registry.add

    def full_twice(self: Registry, path: Path, **more: Any) -> Bundle:
        if full:
            raise full.pop()
        return register(self, path, **more)

    monkeypatch.setattr(Registry, "add", full_twice)
    add(rows)
    start(bundle=tiny_bundle.path, restart_delays_s=(0.0, 0.0))
    (await starter.number(1)).succeed()
    (await starter.number(2)).judge("reject", "worse")
    done = await over(rows)
    assert (done.state, done.model) == (JobState.SUCCEEDED, "lobby@1")
    assert done.gate == GateVerdict(verdict="reject", reasons=("worse",))
    assert registry.gate_record(ModelReference("lobby", "1")).verdict == "reject"
    assert len(starter.started) == 2, "the gate is not asked again"


async def test_a_model_that_is_added_by_hand_in_the_end_has_its_verdict(
    rows: JobRows, starter: FakeStarter, start: Any, tiny_bundle: Bundle, registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def full(self: Registry, path: Path, **more: Any) -> Bundle:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    add(rows)
    with monkeypatch.context() as patched:
        patched.setattr(Registry, "add", full)
        start(bundle=tiny_bundle.path, restart_delays_s=(0.0,))
        process = await starter.number(1)
        process.succeed()
        (await starter.number(2)).judge("reject", "worse")
        done = await over(rows)
    assert (done.state, done.reason) == (JobState.FAILED, "REGISTRY_REFUSED")
    assert done.gate == GateVerdict(verdict="reject", reasons=("worse",))
    await eventually(lambda: not (process.folder / "crops").exists())
    registry.add(process.folder / "bundle")
    record = registry.gate_record(ModelReference("lobby", "1"))
    assert (record.verdict, record.adaptation) == ("reject", "sites/lobby/adaptations/j1")


async def test_a_job_that_is_done_again_is_told_the_safer_verdict(
    rows: JobRows, starter: FakeStarter, start: Any, tiny_bundle: Bundle, registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Its model was registered, then the database was full: the row says that it still runs."""
    refusals = [StoreFullError("full")]
    finish = JobRows.finish

    def full_once(self: JobRows, *args: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return finish(self, *args)

    monkeypatch.setattr(JobRows, "finish", full_once)
    monkeypatch.setattr("service.jobs.supervisor._RETRY_S", 0.0)
    add(rows)
    start(bundle=tiny_bundle.path)
    (await starter.number(1)).succeed()
    (await starter.number(2)).judge("reject", "worse")
    (await starter.number(3)).succeed()
    (await starter.number(4)).judge("promote")
    done = await over(rows)
    assert (done.state, done.model) == (JobState.SUCCEEDED, "lobby@1")
    assert done.gate is not None
    assert (done.gate.verdict, len(done.gate.reasons)) == ("reject", 1)
    assert registry.gate_record(ModelReference("lobby", "1")).verdict == "reject"


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"\xff\xfe", b'{"verdict": "Reject"}', b'{"VERDICT": "promote"}',
     b'{"verdict":' + b"[" * 100_000, None],
)  # fmt: skip
async def test_a_verdict_that_the_server_cannot_read_registers_no_model(
    rows: JobRows, starter: FakeStarter, start: Any, tiny_bundle: Bundle, registry: Registry,
    content: bytes | None,
) -> None:  # fmt: skip
    add(rows)
    start(bundle=tiny_bundle.path)
    (await starter.number(1)).succeed()
    gate = await starter.number(2)
    if content is None:
        (gate.folder / "gate.json").mkdir()
    else:
        (gate.folder / "gate.json").write_bytes(content)
    gate.end(0)
    done = await over(rows)
    assert (done.state, done.reason) == (JobState.FAILED, "JOB_FOLDER_UNUSABLE")
    assert registry.references() == ()


async def test_a_model_that_cannot_be_registered_is_not_lost(
    rows: JobRows, starter: FakeStarter, start: Any, registry: Registry
) -> None:
    add(rows)
    start()
    process = await starter.number(1)
    (registry.root / "lobby").write_text("a file is in the way")
    process.succeed()
    done = await over(rows)
    assert (done.state, done.reason) == (JobState.FAILED, "REGISTRY_REFUSED")
    assert str(process.folder / "bundle") in done.error
    await eventually(lambda: not (process.folder / "crops").exists())
    assert (process.folder / "bundle").exists()


class ManyRows(JobRows):
    """A site with so many crops."""

    def __init__(self, store: Store, crops: int) -> None:
        super().__init__(store)
        self._crops = crops

    def kept_crops(self, site: str) -> Iterator[list[SeenCrop]]:
        yield [SeenCrop(row, "door", "", NOW, b"BM") for row in range(self._crops)]


class SlowRows(JobRows):
    """Crops come when a test says so, and have no end."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.asked = threading.Event()

    def kept_crops(self, site: str) -> Iterator[list[SeenCrop]]:
        self.asked.set()
        while True:
            time.sleep(0.001)
            yield []


@pytest.mark.parametrize("cancel", [True, False])
async def test_crops_that_are_being_copied_hold_up_nobody(
    rows: JobRows, start: Any, store: Store, starter: FakeStarter, tmp_path: Path, cancel: bool
) -> None:
    add(rows)
    slow = SlowRows(store)
    supervisor = start(rows=slow)
    assert await asyncio.to_thread(slow.asked.wait, 10)
    if cancel:
        rows.cancel("lobby", "j1", NOW).result(10)
        supervisor.changed(cancelled="j1")
        assert (await over(rows)).state is JobState.CANCELLED
    else:
        async with asyncio.timeout(5):
            await supervisor.stop()
        assert rows.get("lobby", "j1").state is JobState.RUNNING
    assert starter.started == []
    assert not (tmp_path / "jobs" / "j1" / "job.json").exists()


async def test_a_registry_that_cannot_be_written_is_noticed_before_training(
    rows: JobRows, starter: FakeStarter, start: Any, registry: Registry
) -> None:
    registry.root.write_text("a file is in the way")
    add(rows)
    start()
    done = await over(rows)
    assert (done.state, done.reason) == (JobState.FAILED, "JOB_FOLDER_UNUSABLE")
    assert starter.started == []


async def test_crops_of_a_site_that_was_deleted_before_a_crash_are_removed(
    rows: JobRows, start: Any, store: Store, starter: FakeStarter
) -> None:
    add(rows)
    first = start()
    process = await starter.number(1)
    await first.stop()
    rows.finish(rows.get("lobby", "j1"), JobResult(JobState.CANCELLED), NOW).result(10)
    store.delete_site("lobby", force=True, then=lambda _: None).result(10)
    store.create_site("lobby", ONE, NOW, lambda _: None).result(10)
    assert list((process.folder / "crops").rglob("*.jpg"))
    assert rows.pending_folder_deletions() == ["j1"]
    start()
    await eventually(lambda: not process.folder.exists())
    await eventually(lambda: rows.pending_folder_deletions() == [])


@pytest.mark.parametrize("damage", ["state = 'ASLEEP'", "overrides = '['"])
async def test_a_damaged_row_holds_up_no_other(
    rows: JobRows, start: Any, store: Store, starter: FakeStarter, enroll: Callable[..., None],
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str,
) -> None:  # fmt: skip
    store.create_site("yard", ONE, NOW, lambda _: None).result(10)
    enroll("c", site="yard")
    add(rows, "bad")
    folder = tmp_path / "jobs" / "bad"
    folder.mkdir(parents=True)
    with closing(sqlite3.connect(tmp_path / "resight.db")) as connection, connection:
        connection.execute(f"UPDATE adaptations SET {damage}")  # noqa: S608
    starter.script = FakeProcess.succeed
    supervisor = start()
    for job in ("j1", "j2"):
        add(rows, job, site="yard")
        supervisor.changed()
        assert (await over(rows, job, site="yard")).state is JobState.SUCCEEDED
    await supervisor.stop()
    with pytest.raises(DamagedRowError):
        rows.get("lobby", "bad")
    (told,) = [each for each in caplog.messages if "bad" in each]
    assert told.startswith("the adaptation is left out: the database is damaged: adaptation bad ")
    assert "adaptations wait" not in caplog.text
    assert folder.exists()


@pytest.mark.parametrize(
    "damage",
    ["crops SET image = 'x'", "sightings SET camera = x'ff'", "sightings SET time_us = 'x'"],
)
async def test_a_damaged_crop_ends_its_adaptation(
    rows: JobRows, starter: FakeStarter, start: Any, tmp_path: Path, damage: str
) -> None:
    add(rows)
    with closing(sqlite3.connect(tmp_path / "resight.db")) as connection, connection:
        connection.execute(f"UPDATE {damage} WHERE row = 2")
    start()
    done = await over(rows)
    assert (done.state, done.reason) == (JobState.FAILED, "DATABASE_DAMAGED")
    assert "the sighting in row 2 of site lobby has" in done.error
    assert starter.started == []


async def test_a_damaged_deletion_of_a_folder_holds_up_nothing(
    rows: JobRows, starter: FakeStarter, start: Any, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    with closing(sqlite3.connect(tmp_path / "resight.db")) as connection, connection:
        connection.execute("INSERT INTO leftovers VALUES (x'ff')")
    add(rows)
    starter.script = FakeProcess.succeed
    start()
    assert (await over(rows)).state is JobState.SUCCEEDED
    (told,) = [each for each in caplog.messages if "damaged" in each]
    assert "the deleted adaptation b'\\xff' has" in told


async def test_folders_that_no_site_had_are_left_alone_and_named_once(
    rows: JobRows, start: Any, starter: FakeStarter, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    kept = [tmp_path / "jobs" / name for name in ("20260101-120000-abcdef", "backup of j1")]
    for folder in kept:
        folder.mkdir(parents=True)
    starter.script = FakeProcess.succeed
    supervisor = start()
    for job in ("j1", "j2"):
        add(rows, job)
        supervisor.changed()
        await over(rows, job)
    await supervisor.stop()
    assert all(folder.exists() for folder in kept)
    told = [each for each in caplog.messages if "left alone" in each]
    assert len(told) == 1
    assert told[0].endswith(": 20260101-120000-abcdef, backup of j1")
