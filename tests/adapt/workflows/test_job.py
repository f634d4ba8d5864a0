"""Jobs of a server, as their processes do them."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from adapt import __main__ as worker  # noqa: E402
from adapt.errors import ConfigError, StoppedError, WriteError  # noqa: E402
from adapt.runs.folder import Run  # noqa: E402
from adapt.runs.lock import locked  # noqa: E402
from adapt.runtime.context import StopRequest  # noqa: E402
from adapt.workflows import job as job_module  # noqa: E402
from adapt.workflows.job import gate_outcome_of, outcome_of, read_job, run_job  # noqa: E402
from models.bundle import Bundle  # noqa: E402
from models.files import FileLock  # noqa: E402
from models.job_contract import WORKER, GateVerdict, gate_arguments, train_arguments  # noqa: E402
from tests.support.remembered_exports import remembered_exports  # noqa: E402
from tests.support.thin_worker import start_training  # noqa: E402
from tests.support.tiny_job import OVERRIDES, tiny_inits, write_job  # noqa: E402
from tests.support.tiny_model import write_tiny_bundle  # noqa: E402
from tests.support.tiny_sets import write_market  # noqa: E402
from tests.support.two_processes import environment, free_port  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")

ENOUGH_S = 300.0


@pytest.fixture(scope="module", autouse=True)
def one_export_of_each_network() -> Iterator[None]:
    with remembered_exports():
        yield


@pytest.fixture(scope="module")
def inits(thin: None, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return tiny_inits(tmp_path_factory.mktemp("inits"))


@pytest.fixture
def folder(inits: list[Path], tmp_path: Path) -> Path:
    return write_job(tmp_path / "job", inits)


def changed(folder: Path, **fields: Any) -> Path:
    job = json.loads((folder / "job.json").read_text())
    (folder / "job.json").write_text(json.dumps(job | fields))
    return folder


def main(folder: Path) -> int:
    """The exit code of training the job in this process."""
    return worker.main(train_arguments(folder))


def exported(folder: Path) -> Path:
    """A bundle is there already: making one takes longer than all else here."""
    (folder / "bundle").mkdir()
    return folder


def outcome(folder: Path) -> dict[str, str]:
    said: dict[str, str] = json.loads((folder / "outcome.json").read_text())
    return said


def begun(folder: Path) -> Path:
    """A job whose run was stopped before its first step."""
    stop = StopRequest()
    stop.make()
    with pytest.raises(StoppedError):
        run_job(folder, stop)
    return folder


def test_from_crops_to_a_bundle_and_what_is_done_is_not_done_again(folder: Path) -> None:
    assert run_job(folder, StopRequest()).state == "finished"
    info = Run.open(folder / "run").info
    assert (info.state, info.method, info.rounds, info.spec.seed) == ("finished", "mmt", 1, 3)
    assert info.spec.recipe_name == f"mmt_small ({', '.join(OVERRIDES)})"
    assert Bundle.open(folder / "bundle").reference == "lobby@2"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert run_job(folder, StopRequest()).state == "finished"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_a_job_that_was_stopped_goes_on(folder: Path) -> None:
    begun(folder)
    assert Run.open(folder / "run").info.state == "stopped"
    assert not (folder / "bundle").exists()
    started = Run.open(folder / "run").info.started
    exported(folder)
    assert run_job(folder, StopRequest()).state == "finished"
    assert Run.open(folder / "run").info.started == started, "the same run"


@pytest.mark.parametrize("decoded", [True, False])
def test_a_job_whose_folder_was_moved_goes_on(folder: Path, decoded: bool) -> None:
    begun(folder)
    moved = exported(folder.rename(folder.with_name("moved")))
    if not decoded:
        (moved / "run" / "target.crops").unlink()
    assert run_job(moved, StopRequest()).state == "finished"


def test_a_run_that_failed_fails_again_for_its_own_reason(folder: Path) -> None:
    begun(folder)
    file = folder / "run" / "run.json"
    info = json.loads(file.read_text())
    info |= {"state": "failed", "reason": "DIVERGED", "error": "nan"}
    file.write_text(json.dumps(info))
    ended = run_job(folder, StopRequest())
    assert (ended.state, ended.reason, ended.error) == ("failed", "DIVERGED", "nan")


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, unlimited[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)


def test_a_job_whose_disk_was_full_goes_on(folder: Path) -> None:
    begun(exported(folder))
    with no_file_above(200_000):  # no network has room
        assert main(folder) == 75
    said = outcome(folder)
    assert (said["state"], said["reason"]) == ("stopped", "RUN_FOLDER_UNWRITABLE")
    assert "make room there" in said["error"]
    started = Run.open(folder / "run").info.started
    assert main(folder) == 0
    assert outcome(folder)["state"] == "finished"
    assert Run.open(folder / "run").info.started == started, "the same run"


def test_a_job_whose_disk_is_full_at_its_export_goes_on(folder: Path) -> None:
    """The run is over by then: it was started again with no word why, and no more than that."""
    begun(exported(folder))
    assert main(folder) == 0
    (folder / "bundle").rmdir()
    with no_file_above(100_000):  # no model has room
        assert main(folder) == 75
    said = outcome(folder)
    assert (said["state"], said["reason"]) == ("stopped", "RUN_FOLDER_UNWRITABLE")
    assert not (folder / "bundle").exists()
    assert main(folder) == 0
    assert Bundle.open(folder / "bundle").reference == "lobby@2"


def test_a_job_whose_disk_is_full_before_its_run_begins_goes_on(folder: Path) -> None:
    with no_file_above(1000):  # the decoded crops have no room
        assert main(folder) == 75
    said = outcome(folder)
    assert (said["state"], said["reason"]) == ("stopped", "RUN_FOLDER_UNWRITABLE")
    assert not (folder / "run" / "run.json").exists()
    assert main(exported(folder)) == 0


@pytest.mark.parametrize("reason", ["RUN_FOLDER_UNWRITABLE", "RUN_FOLDER_UNUSABLE"])
def test_a_job_whose_disk_was_full_at_once_begins_anew(folder: Path, reason: str) -> None:
    """A run that failed by its folder is resumed, or begun anew where no state was saved."""
    begun(exported(folder))
    (folder / "run" / "checkpoint.safetensors").unlink()
    file = folder / "run" / "run.json"
    info = json.loads(file.read_text())
    info |= {"state": "failed", "reason": reason, "error": "full"}
    file.write_text(json.dumps(info))
    assert outcome_of(WriteError("full"), folder).state == "stopped"
    assert run_job(folder, StopRequest()).state == "finished"


def test_what_a_job_begins_with_does_not_mend_itself(folder: Path) -> None:
    changed(folder, inits=[str(folder / "nowhere"), str(folder / "nowhere")])
    assert main(folder) == 1
    said = outcome(folder)
    assert (said["state"], said["reason"]) == ("failed", "RUN_FOLDER_UNUSABLE")


def damage_checkpoint(folder: Path) -> None:
    (folder / "run" / "checkpoint.safetensors").write_bytes(b"torn")


def lose_a_crop(folder: Path) -> None:
    next(path for path in (folder / "crops").rglob("*") if path.is_file()).unlink()


def change_device(folder: Path) -> None:
    file = folder / "run" / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"device": "cuda"}))


@pytest.mark.parametrize("harm", [damage_checkpoint, lose_a_crop, change_device])
def test_what_a_run_lacks_for_good_does_not_mend_itself(
    folder: Path, harm: Callable[[Path], None]
) -> None:
    harm(begun(folder))
    assert main(folder) == 1
    said = outcome(folder)
    assert (said["state"], said["reason"]) == ("failed", "RUN_FOLDER_UNUSABLE")


def test_a_run_whose_folder_somebody_looks_at_goes_on(folder: Path) -> None:
    with locked(begun(folder) / "run"):
        assert main(folder) == 75
    said = outcome(folder)
    assert (said["state"], said["reason"]) == ("stopped", "RUN_FOLDER_UNWRITABLE")


def test_a_method_takes_as_many_networks_as_it_wants(folder: Path) -> None:
    exported(folder)
    run_job(changed(folder, method="daal", recipe="daal_small",
                    overrides=[*OVERRIDES, "options.source=none", "schedule.passes=0"]),
            StopRequest())  # fmt: skip
    assert len(Run.open(folder / "run").info.origin.inits) == 1


@pytest.mark.parametrize(
    "fields", [{"method": "source"}, {"method": "nothing"}, {"surprise": 1}, {"seed": "x"}]
)
def test_an_invalid_job(folder: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        read_job(changed(folder, **fields))


def test_it_is_written_down_how_a_job_ended(folder: Path) -> None:
    assert main(changed(folder, recipe="no_such_recipe")) == 1
    said = outcome(folder)
    assert (said["state"], said["reason"]) == ("failed", "CONFIG_INVALID")
    assert "no_such_recipe" in said["error"]
    assert main(changed(exported(folder), recipe="mmt_small")) == 0
    assert outcome(folder) == {"state": "finished", "reason": "", "error": ""}


def test_a_process_that_is_asked_to_end_keeps_its_state(folder: Path) -> None:
    endless = [*OVERRIDES, "schedule.iterations=100000"]
    log = folder / "log.txt"
    process = start_training(changed(folder, overrides=endless), log)
    deadline = time.monotonic() + ENOUGH_S
    while not (folder / "run" / "checkpoint.safetensors").exists():
        assert time.monotonic() < deadline
        assert process.is_alive(), log.read_text()
        time.sleep(0.02)
    process.terminate()
    process.join(ENOUGH_S)
    assert process.exitcode == 75
    assert outcome(folder)["state"] == "stopped"
    assert Run.open(folder / "run").info.state == "stopped"


@dataclass(frozen=True)
class Waiting:
    """asked: somebody wants the job for himself. begins: and has it."""

    asked: threading.Event
    begins: threading.Event


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    events = Waiting(threading.Event(), threading.Event())
    only_process = job_module._only_process

    def watched(path: Path) -> FileLock:
        events.asked.set()
        lock = only_process(path)
        events.begins.set()
        return lock

    monkeypatch.setattr(job_module, "_only_process", watched)
    return events


def test_a_job_waits_until_an_earlier_process_of_it_has_ended(
    folder: Path, waiting: Waiting
) -> None:
    states = []
    with FileLock(exported(folder) / "job.json"):
        work = lambda: states.append(run_job(folder, StopRequest()).state)  # noqa: E731
        second = threading.Thread(target=work, daemon=True)
        second.start()
        while not waiting.asked.wait(0.1):
            assert second.is_alive(), states
        assert not waiting.begins.wait(0.5)
        assert not (folder / "run").exists()
    second.join(ENOUGH_S)
    assert states == ["finished"]


class Onlooker(StopRequest):
    """Tries, each time that the run looks whether it is to stop, to get at its job."""

    def __init__(self, folder: Path) -> None:
        self.seconds = 300.0
        self.kept_out: list[bool] = []
        self._job = folder / "job.json"

    @property
    def made(self) -> bool:
        try:
            FileLock(self._job).release()
            self.kept_out.append(False)
        except BlockingIOError:
            self.kept_out.append(True)
        return False

    @made.setter
    def made(self, value: bool) -> None:
        pass


def test_nobody_else_gets_at_a_job_that_runs(folder: Path) -> None:
    onlooker = Onlooker(exported(folder))
    assert run_job(folder, onlooker).state == "finished"
    assert onlooker.kept_out
    assert all(onlooker.kept_out)


def test_a_folder_of_labelled_crops_is_no_job(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"job\.json"):
        run_job(write_market(tmp_path), StopRequest())


def test_two_processes_do_one_job_together(folder: Path) -> None:
    changed(folder, overrides=[*OVERRIDES, "batch.ghost=0"])
    port = free_port()
    logs = [folder / f"log-{rank}.txt" for rank in (0, 1)]
    both = [
        start_training(folder, log, environment(rank, 2, port)) for rank, log in enumerate(logs)
    ]
    for process in both:
        process.join(ENOUGH_S)
    said = [log.read_text() for log in logs]
    assert [process.exitcode for process in both] == [0, 0], said
    assert outcome(folder)["state"] == "finished"
    info = Run.open(folder / "run").info
    assert (info.state, info.processes, info.rounds) == ("finished", 2, 1)
    assert Bundle.open(folder / "bundle").reference == "lobby@2"
    assert main(folder) == 0, "one process finds it done"


def judge(folder: Path, old: Path) -> int:
    """The exit code of the job's gate in this process."""
    return worker.main(gate_arguments(folder, old, "cpu"))


@pytest.fixture
def judged(tmp_path: Path, inits: list[Path]) -> tuple[Path, Path]:
    """A job with a bundle as training leaves it, and a bundle of the model in use."""
    folder = write_job(tmp_path / "job", inits)
    write_tiny_bundle(folder / "bundle", name="lobby", version="2", shift=40.0)
    return folder, write_tiny_bundle(tmp_path / "old", name="lobby", version="1").path


def test_the_gate_of_a_job_judges_by_the_crops_that_training_left_out(
    judged: tuple[Path, Path],
) -> None:
    folder, old = judged
    assert judge(folder, old) == 0
    assert outcome(folder) == {"state": "finished", "reason": "", "error": ""}
    assert GateVerdict.read(folder / "gate.json").verdict == "hold"
    crops = json.loads((folder / "gate.json").read_text())["crops"]
    assert judge(changed(folder, hold_back=0.0), old) == 0
    assert crops < json.loads((folder / "gate.json").read_text())["crops"] == 24


def test_a_gate_whose_model_is_damaged_fails_and_gives_no_verdict(
    judged: tuple[Path, Path],
) -> None:
    folder, old = judged
    (folder / "bundle" / "model.onnx").write_bytes(b"damaged")
    assert judge(folder, old) == 1
    assert outcome(folder)["reason"] == "BUNDLE_HASH_MISMATCH"
    assert not (folder / "gate.json").exists()


def test_a_gate_that_meets_a_full_disk_can_be_tried_again(judged: tuple[Path, Path]) -> None:
    folder, old = judged
    with no_file_above(1000):  # the decoded crops have no room
        assert judge(folder, old) == 75
    assert outcome(folder)["state"] == "stopped"
    assert not (folder / "gate.json").exists()
    assert judge(folder, old) == 0
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        full = OSError(number, os.strerror(number))
        assert gate_outcome_of(full).state == "stopped"
        assert outcome_of(full, folder).state == "stopped"
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with pytest.raises(PermissionError):  # it would end so each time
        gate_outcome_of(refused)
    with pytest.raises(PermissionError):
        outcome_of(refused, folder)
    assert gate_outcome_of(ConfigError("no such device")).state == "failed"


def test_a_gate_waits_for_an_earlier_process_of_its_job(
    judged: tuple[Path, Path], waiting: Waiting
) -> None:
    folder, old = judged
    codes: list[int] = []
    with FileLock(folder / "job.json"):
        gate = threading.Thread(target=lambda: codes.append(judge(folder, old)), daemon=True)
        gate.start()
        while not waiting.asked.wait(0.1):
            assert gate.is_alive(), codes
        assert not waiting.begins.wait(0.5)
        assert not (folder / "gate.json").exists()
    gate.join(ENOUGH_S)
    assert codes == [0]


def test_what_is_not_installed_is_said(tmp_path: Path) -> None:
    """By a process as the server starts it; its exit code is the worker's."""
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "torch.py").write_text("raise ModuleNotFoundError(name='torch')")
    path = os.pathsep.join((str(absent), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        [sys.executable, "-m", WORKER, *train_arguments(tmp_path)],
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 1
    said = outcome(tmp_path)
    assert (said["state"], said["reason"]) == ("failed", "NOT_INSTALLED")
    assert "lacks torch: pip install 'resight[adapt]'" in said["error"]
