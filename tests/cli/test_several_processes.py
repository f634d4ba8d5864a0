"""Commands that several processes do together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from typer.testing import CliRunner  # noqa: E402

from adapt.errors import ConfigError, StoppedError  # noqa: E402
from adapt.runs.folder import Run  # noqa: E402
from adapt.runtime import distributed  # noqa: E402
from adapt.runtime.distributed import ProcessGroup  # noqa: E402
from cli.main import app  # noqa: E402
from tests.support.forked_command import ForkedCommand  # noqa: E402
from tests.support.tiny_sets import write_market  # noqa: E402
from tests.support.two_processes import environment, free_port  # noqa: E402

ENOUGH_S = 300.0
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_market(tmp_path_factory.mktemp("set") / "source")


def pretrain(source: Path, out: Path, rounds: int) -> list[str]:
    settings = (f"schedule.rounds={rounds}", "schedule.iterations=3", "augment.pad=1")
    batch = ("batch.identities=3", "batch.instances=2", "batch.ghost=0")
    return [
        *("pretrain", "--source", str(source), "--out", str(out)),
        *("--height", "32", "--width", "16", "--backbone", "mobilenet_v2", "--device", "cpu"),
        *("--recipe", "source_small"),
        *(part for setting in (*settings, *batch) for part in ("--set", setting)),
    ]


def resight(*arguments: str) -> None:
    """In this process."""
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output


@contextmanager
def stopped_after(out: Path, rounds: int) -> Iterator[None]:
    """Send this process SIGTERM when a run that it does has so many rounds."""

    def watch() -> None:
        while not over.wait(0.02):
            if len(Run.open(out).metrics()) >= rounds:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    over = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def test_torchrun_starts_them_and_one_speaks(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(
        [sys.executable, *torchrun, "-m", "cli.main", *pretrain(source, out, 2)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=ENOUGH_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}\n"
    assert done.stderr.count("pre-trained mobilenet_v2") == 1
    assert done.stderr.count("round 2/2:") == 1
    info = Run.open(out).info
    assert (info.state, info.processes, info.rounds, info.device) == ("finished", 2, 2, "cpu")


@pytest.mark.usefixtures("thin")
def test_sigterm_to_one_ends_both_and_one_goes_on(source: Path, tmp_path: Path) -> None:
    out, port = tmp_path / "run", free_port()
    with ExitStack() as stack:
        both = [
            stack.enter_context(
                ForkedCommand(
                    tmp_path / f"log{rank}",
                    *pretrain(source, out, 200),
                    told=environment(rank, 2, port),
                )
            )
            for rank in (0, 1)
        ]
        deadline = time.monotonic() + ENOUGH_S
        while not (out / "metrics.jsonl").exists():
            assert time.monotonic() < deadline
            assert not both[0].is_over, both[0].log
            time.sleep(0.02)
        both[1].send(signal.SIGTERM)
        assert [process.wait() for process in both] == [75, 75], [each.log for each in both]
    assert f"stopped: {out} was asked to stop: resume it with --resume {out}" in both[0].log
    run = Run.open(out)
    assert (run.info.state, run.info.reason, run.info.processes) == ("stopped", "STOPPED", 2)
    done = run.info.rounds
    with stopped_after(out, done + 2), pytest.raises(StoppedError):
        resight("pretrain", "--resume", str(out))
    run = Run.open(out)
    assert run.info.processes == 1
    assert [row["round"] for row in run.metrics()] == list(range(1, len(run.metrics()) + 1))


def test_batches_that_cannot_be_shared_are_refused_at_once(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the processes exchange anything: of these two, one is not there."""
    monkeypatch.setattr(distributed, "join", lambda _: (CPU, ProcessGroup(0, 2)))
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match="1 batch-norm group of 6 images cannot be shared even"):
        resight(*pretrain(source, out, 1), "--set", "batch.ghost=6")
    assert not out.exists()


def test_what_one_process_does_is_refused() -> None:
    plan = ["adapt", "--method", "mmt", "--target", "x", "--init", "x", "--out", "y", "--plan"]
    reproduce = ["reproduce", "mmt-duke-market-resnet50-500", "--data-root", "x"]
    for command in (plan, reproduce):
        with pytest.raises(ConfigError, match="runs in one process"):
            CliRunner().invoke(app, command, env={"WORLD_SIZE": "2"}, catch_exceptions=False)
