"""Runs that are killed, stopped and continued from the command line."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from typer.testing import CliRunner  # noqa: E402

from adapt.errors import ConfigError, DataError, RunError, StoppedError  # noqa: E402
from adapt.recipes import load_recipe  # noqa: E402
from adapt.runs.folder import Run  # noqa: E402
from adapt.runtime.context import RunContext, StopRequest  # noqa: E402
from adapt.workflows.adapt import adapt  # noqa: E402
from cli.main import app  # noqa: E402
from tests.support.forked_command import ForkedCommand  # noqa: E402
from tests.support.specs import adapt_spec  # noqa: E402
from tests.support.tiny_sets import write_market  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")

SMALL = (
    *("--height", "32", "--width", "16", "--backbone", "mobilenet_v2", "--recipe", "source_small"),
    *("--set", "schedule.rounds=3", "--set", "schedule.iterations=3", "--set", "augment.pad=1"),
    *("--set", "batch.identities=3", "--set", "batch.instances=2", "--device", "cpu"),
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_market(tmp_path_factory.mktemp("set") / "source")


def resight(*arguments: object) -> None:
    """In this process, on one thread as the others."""
    torch.set_num_threads(1)
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_killed_then_stopped_then_continued_is_the_unbroken_run(
    source: Path, tmp_path: Path
) -> None:
    """Both in the middle of a round of three steps."""
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    asked = ("pretrain", "--source", source, "--out", pieces, *SMALL)
    with ForkedCommand(tmp_path / "first", *asked, halt_at=5) as first:
        first.wait_until_halted()
        first.send(signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL
    assert (Run.open(pieces).info.state, len(Run.open(pieces).metrics())) == ("running", 1)
    again = ("pretrain", "--resume", pieces)
    with ForkedCommand(tmp_path / "second", *again, halt_at=5) as second:
        second.wait_until_halted()
        second.send(signal.SIGTERM)
        assert second.wait() == 75, second.log
    said = f"stopped: {pieces} was asked to stop: resume it with --resume {pieces}"
    assert said in second.log
    assert (Run.open(pieces).info.state, len(Run.open(pieces).metrics())) == ("stopped", 2)
    resight("pretrain", "--resume", pieces)
    resight("pretrain", "--source", source, "--out", whole, *SMALL)
    assert Run.open(pieces).network_hash() == Run.open(whole).network_hash()
    assert [row["loss"] for row in Run.open(pieces).metrics()] == [
        row["loss"] for row in Run.open(whole).metrics()
    ]


def test_a_continued_run_cannot_be_changed(tmp_path: Path) -> None:
    asked = ["adapt", "--resume", str(tmp_path), "--set", "optimizer.lr=1", "--seed", "2"]
    with pytest.raises(ConfigError, match="leave out --set, --seed, or start a new run"):
        CliRunner().invoke(app, asked, catch_exceptions=False)


def test_crops_that_were_moved_are_found_again(source: Path, tmp_path: Path) -> None:
    site, init, run = write_market(tmp_path / "site", seed=2), tmp_path / "init", tmp_path / "run"
    once = ("schedule.rounds=1", "schedule.iterations=1")
    pretrain = ("pretrain", "--source", source, "--out", init, *SMALL)
    resight(*pretrain, *(word for setting in once for word in ("--set", setting)))
    tiny = (*once, "batch.identities=3", "batch.instances=2", "augment.pad=1")
    clusters = ("clustering.algorithm=kmeans", "clustering.clusters=10")
    recipe = load_recipe("mmt_small", method="mmt", overrides=(*tiny, *clusters))
    asked = StopRequest()
    asked.make()
    context = RunContext(torch.device("cpu"), stop=asked)
    with pytest.raises(StoppedError):
        adapt(adapt_spec(site, [init], recipe), context, run)
    moved = site.rename(tmp_path / "moved")
    refused = rf"^{re.escape(str(site))} is not a folder; give the folder that holds the crops$"
    with pytest.raises(DataError, match=refused):
        resight("adapt", "--resume", run)
    with pytest.raises(RunError, match="are not those that the run began with"):
        resight("adapt", "--resume", run, "--target", source)
    resight("adapt", "--resume", run, "--target", moved)
    info = Run.open(run).info
    assert (info.state, info.spec.target) == ("finished", moved)
    assert [each.root for each in info.data if each.role == "target"] == [str(moved)]


@pytest.mark.parametrize("command", ["adapt", "pretrain"])
def test_a_new_run_needs_all_that_decides_it(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--out", "run"])
    assert done.exit_code == 2
    assert "or --resume RUN" in done.output
