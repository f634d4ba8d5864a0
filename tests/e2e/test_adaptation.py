"""A server that learns its site: real processes, networks and crops of seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="training needs torch")

from adapt.runs.folder import Run
from models.bundle import Bundle
from service.client import CallFailedError
from service.jobs.records import JobState
from tests.support.tiny_job import OVERRIDES, tiny_inits, write_crops

Command = Callable[..., subprocess.CompletedProcess[str]]

LONGER = ("options.networks=1", "schedule.rounds=2", "schedule.iterations=6")
"""After its first round there is time to kill the server before the second one ends."""


@pytest.fixture(scope="module")
def inits(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return tiny_inits(tmp_path_factory.mktemp("inits"))


def start_adaptation(command: Command, address: str, *overrides: str) -> str:
    """Start an adaptation of the site `lobby`; returns its id."""
    changes = [part for each in overrides for part in ("--set", each)]
    started = command(
        *("adaptations", "start", "--site", "lobby", "--method", "mmt", "--recipe", "mmt_small"),
        *(*changes, "--json"),
        server=address,
    )
    assert started.returncode == 0, started.stderr
    job: str = json.loads(started.stdout)["adaptation"]
    return job


def refuse_person(folder: Path, person: str) -> None:
    """Fail if a file of an adaptation names a person."""
    left = [path for path in folder.rglob("*") if path.is_file()]
    assert not any(person.encode() in path.read_bytes() for path in left)


def check_activation(command: Command, address: str, job: str, image: Path) -> None:
    """Activate the model of an adaptation of 24 crops; search results come from it then."""
    search = ("search", image, "--site", "lobby", "--json", "--limit", 24)
    before = json.loads(command(*search, server=address).stdout)
    moved = command("models", "activate", "lobby", "--site", "lobby", server=address)
    assert moved.stdout == "lobby@1\n"
    assert moved.stderr.splitlines()[-2:] == [
        "site lobby: 24 sightings; its model is now:",
        f"lobby@1 is of sites/lobby/adaptations/{job}; the gate's verdict: hold",
    ], moved.stderr
    after = json.loads(command(*search, server=address).stdout)
    assert (before["model"], after["model"]) == ("tiny@1", "lobby@1")
    assert [m["score"] for m in before["matches"]] != [m["score"] for m in after["matches"]]


def test_a_crashed_adaptation_is_resumed_and_its_model_activated(
    start: Callable[..., Any],
    command: Command,
    eventually: Callable[[Callable[[], bool]], None],
    inits: list[Path],
    tiny_bundle: Bundle,
    tmp_path: Path,
) -> None:
    settings: dict[str, Any] = {
        "adapt_inits": os.pathsep.join(map(str, inits)),
        "adapt_device": "cpu",
        "registry": tmp_path / "registry",
    }
    server = start(tiny_bundle.path, **settings)
    said = command("site", "create", "lobby", server=server.address)
    assert said.returncode == 0, said.stderr
    crops = write_crops(tmp_path / "crops")
    labelled = ["--site", "lobby", "--person", "Ann Example"]
    enrolled = command("enroll", *labelled, crops, server=server.address)
    assert enrolled.returncode == 0, enrolled.stderr
    job = start_adaptation(command, server.address, *OVERRIDES, *LONGER)
    folder = server.data_dir / "adaptations" / job

    with server.client() as client:
        for _, round_ in client.watch_adaptation("lobby", job):
            if round_ is not None:
                break
    started = Run.open(folder / "run").info.started
    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    server = start(tiny_bundle.path, **settings)
    with server.client() as client:
        seen = list(client.watch_adaptation("lobby", job))
    done = seen[-1][0]
    assert done.state is JobState.SUCCEEDED, (done, (folder / "log.txt").read_text())
    assert [round_.number for _, round_ in seen if round_ is not None] == [1, 2]
    assert Run.open(folder / "run").info.started == started, "it was resumed, not begun anew"
    assert done.model == "lobby@1"
    # 24 crops are too few to judge by, and the gate says so.
    assert (done.gate.verdict, bool(done.gate.reasons)) == ("hold", True)

    # Nothing of what adaptation saw names a person, and no crop is left behind.
    eventually(lambda: not (folder / "crops").exists() and not (folder / "bundle").exists())
    refuse_person(folder, "Ann Example")

    report = command("adaptations", "report", job, "--site", "lobby", server=server.address)
    assert "lobby@1" in report.stdout
    assert "hold" in report.stdout
    listed = command("adaptations", "list", "--site", "lobby", server=server.address)
    assert listed.stdout.splitlines()[1].split()[:3] == [job, "mmt", "SUCCEEDED"]

    check_activation(command, server.address, job, next(crops.rglob("*.png")))
    assert server.stop() == 0
    assert "Traceback" not in server.log


def test_cancel(
    start: Callable[..., Any],
    command: Command,
    inits: list[Path],
    tiny_bundle: Bundle,
    tmp_path: Path,
) -> None:
    server = start(
        tiny_bundle.path, adapt_inits=inits[0], adapt_stop_s=60, registry=tmp_path / "registry"
    )
    command("site", "create", "lobby", server=server.address)
    command("enroll", "--site", "lobby", write_crops(tmp_path / "crops"), server=server.address)
    job = start_adaptation(command, server.address, "batch.identities=2", "augment.pad=1")
    with server.client() as client:
        for adaptation, _ in client.watch_adaptation("lobby", job):
            if adaptation.state is JobState.RUNNING:
                break
        said = command("adaptations", "cancel", job, "--site", "lobby", server=server.address)
        assert said.returncode == 0, said.stderr
        *_, (last, _) = client.watch_adaptation("lobby", job)
        assert last.state is JobState.CANCELLED
        with pytest.raises(CallFailedError):
            client.adaptation("lobby", "another")
    watched = command("adaptations", "watch", job, "--site", "lobby", server=server.address)
    assert (watched.returncode, watched.stdout) == (1, "CANCELLED\n")
    assert f"error: adaptation {job} cancelled" in watched.stderr
