from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import cli.adapting
import cli.serving
from adapt.errors import ConfigError
from cli.adapting import _adaptation_json, _facts, _rounds_table, _state_line
from models.job_contract import AdaptationRound
from service.client import ServerUnreachableError
from service.errors import BadAdaptationError
from service.jobs.records import Adaptation, AdaptationSpec, JobState


def test_start_prints_the_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Server(AbstractContextManager[Any]):
        def __exit__(self, *error: object) -> None: ...

        def start_adaptation(self, site: str, spec: AdaptationSpec) -> Adaptation:
            return Adaptation("j1", site, spec, JobState.PENDING, datetime(2026, 1, 1, tzinfo=UTC))

    monkeypatch.setattr(cli.adapting, "ResightClient", lambda address: Server())
    app = typer.Typer()
    cli.serving.register(app)
    start = ["adaptations", "start", "--site", "lobby", "--method", "mmt"]
    done = CliRunner().invoke(app, start)
    assert (done.stdout, done.exit_code) == ("j1\n", 0)
    assert done.stderr == "an adaptation of site lobby waits for its turn:\n"
    assert json.loads(CliRunner().invoke(app, [*start, "--json"]).stdout)["adaptation"] == "j1"


def test_rounds_in_a_table() -> None:
    rounds = [
        AdaptationRound(1, "x", (), {"zeta": 1.0, "loss": 2.5, "clusters": 7.0}),
        AdaptationRound(2, "x", (), {"alpha": 0.125, "loss": 1.0, "clusters": 12.0}),
    ]
    lines = [line.split() for line in _rounds_table(rounds).splitlines()]
    assert lines == [
        ["round", "clusters", "loss", "alpha", "zeta"],
        ["1", "7", "2.5", "-", "1"],
        ["2", "12", "1", "0.125", "-"],
    ]


def test_that_rounds_cannot_be_read_is_shown_beside_the_state() -> None:
    spec = AdaptationSpec("mmt", "mmt_small")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    job = Adaptation("j1", "lobby", spec, JobState.RUNNING, now, rounds_error="no rounds")
    assert _state_line(job) == "RUNNING; no rounds"
    assert ("rounds", "no rounds") in _facts(job)
    assert _adaptation_json(job)["rounds_error"] == "no rounds"


def test_what_is_wrong_is_said_before_the_server_is_asked() -> None:
    app = typer.Typer()
    cli.serving.register(app)
    asked = ["adaptations", "start", "--site", "lobby", "--server", "127.0.0.1:1"]
    for wrong in (["--method", "none"], ["--method", "mmt", "--recipe", "../x.toml"]):
        done = CliRunner().invoke(app, [*asked, *wrong])
        assert isinstance(done.exception, BadAdaptationError)


def test_a_recipe_that_training_refuses_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="recipes come with resight[adapt]")
    app = typer.Typer()
    cli.serving.register(app)
    asked = ["adaptations", "start", "--site", "lobby", "--server", "127.0.0.1:1"]
    for wrong, why in (
        (["--method", "mmt", "--recipe", "nosuch"], "no recipe 'nosuch'"),
        (["--method", "mmt", "--set", "schedule.round=2"], "schedule.round"),
        (["--method", "mmt", "--recipe", "nrmt"], "for method 'nrmt'"),
    ):
        done = CliRunner().invoke(app, [*asked, *wrong])
        assert isinstance(done.exception, ConfigError)
        assert why in str(done.exception)
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [
        name for name in sys.modules if name.startswith(("adapt.recipes", "adapt.methods"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    without_training = CliRunner().invoke(app, [*asked, *wrong])
    assert isinstance(without_training.exception, ServerUnreachableError)
