"""The run folder: who may write it, and what can be read back after a crash."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.errors import AdaptError, ClusteringError, RunError, StoppedError
from adapt.runs.folder import FolderUse, Run, refuse_taken_run
from models.backbones.net import ReIDNet
from models.job_contract import RunRecord
from tests.support.tiny_runs import data, row
from tests.support.tiny_runs import info as run_info

pytestmark = pytest.mark.usefixtures("thin")

INFO = run_info(data=())


def line(number: int) -> bytes:
    return json.dumps(row(number)).encode() + b"\n"


def killed(path: Path, **files: bytes) -> Path:
    """What is left of a run whose process crashed, with further files; `__` in a name is a dot."""
    run = Run.create(path.with_name("alive"), INFO)
    shutil.copytree(run.path, path)
    for name, content in files.items():
        (path / name.replace("__", ".")).write_bytes(content)
    return path


def test_a_torn_last_line_is_no_round(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", INFO)
    assert run.metrics() == []
    (run.path / "metrics.jsonl").write_bytes(line(1) + line(2) + line(3)[:-9])
    assert [row["round"] for row in run.metrics()] == [1, 2]


@pytest.mark.parametrize("middle", [b'{"round": 2, "los', b"\xff\xfe", b"3", b"{}"])
def test_any_other_damaged_line_is_an_error(tmp_path: Path, middle: bytes) -> None:
    run = Run.create(tmp_path / "run", INFO)
    (run.path / "metrics.jsonl").write_bytes(line(1) + middle + b"\n" + line(3))
    with pytest.raises(RunError, match=r"metrics\.jsonl is damaged"):
        run.metrics()


def test_rounds_that_run_json_counts_have_to_be_there(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", INFO)
    for number in (1, 2):
        run.record(row(number), ReIDNet("mobilenet_v2"))
    file = run.path / "metrics.jsonl"
    file.write_bytes(line(1) + line(2)[:-9])
    with pytest.raises(RunError, match=r"has 1 of 2 rounds .*; restore it from a copy"):
        run.metrics()
    file.unlink()
    with pytest.raises(RunError, match="has 0 of 2 rounds"):
        run.metrics()
    file.mkdir()
    with pytest.raises(RunError, match="cannot be read: Is a directory"):
        run.metrics()


def test_figures_that_are_not_finite_are_a_warning(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", INFO)
    run.record({**row(1), "odd": math.nan, "large": math.inf}, ReIDNet("mobilenet_v2"))
    (kept,) = run.metrics()
    assert kept["warnings"] == ["left out, as they are not finite: odd, large"]
    assert {**kept, "warnings": row(1)["warnings"]} == row(1)


def test_figures_are_on_the_disk_before_the_network_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut leaves what was synced, in the order in which it was."""
    run = Run.create(tmp_path / "run", INFO)
    synced: list[str] = []
    plain = os.fsync

    def noted(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        if name != run.path.name:
            synced.append("metrics" if name == "metrics.jsonl" else name.split(".")[1])
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    run.record(row(1), ReIDNet("mobilenet_v2"), [np.arange(3)])
    assert synced == ["metrics", "labels", "model", "run"]


def test_a_run_is_resumed_without_the_figures_that_a_power_cut_took(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run.create(tmp_path / "run", INFO)
    for number in (1, 2, 3):
        run.record(row(number, loss=float(number)), ReIDNet("mobilenet_v2"))
    file = run.path / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[: len(file.read_bytes()) // 2])
    run.rewind(2)
    first, second = run.metrics()
    assert (first["loss"], run.info.rounds) == (1.0, 2)
    assert second == row(2) | {"labels": "", "warnings": ["the figures of this round are lost"]}
    assert "the figures of round 2 are lost" in caplog.text
    run.record(row(3), ReIDNet("mobilenet_v2"))
    assert [each["round"] for each in Run.open(run.path).metrics()] == [1, 2, 3]


def test_going_back_looks_at_no_later_line(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", INFO)
    run.record(row(1), ReIDNet("mobilenet_v2"))
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b"damaged\n")
    run.rewind(1)
    assert run.metrics() == [row(1)]


def test_figures_of_one_round(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", INFO)
    (run.path / "metrics.jsonl").write_bytes(b"damaged\n" + line(2))
    assert run.figures_of(2) == row(2)
    assert run.figures_of(3) is None, "run.json counts no such round"
    with pytest.raises(RunError, match="damaged in line 1"):
        run.figures_of(1)


@pytest.mark.parametrize("left", [b"", line(1), line(1) + line(2)[:-9], None])
def test_lost_figures_of_a_round_are_an_error(tmp_path: Path, left: bytes | None) -> None:
    run = Run.create(tmp_path / "run", INFO.model_copy(update={"rounds": 2, "state": "finished"}))
    if left is not None:
        (run.path / "metrics.jsonl").write_bytes(left)
    with pytest.raises(RunError, match=r"metrics\.jsonl has no line of round 2, .*; restore it"):
        run.figures_of(2)


def test_a_server_reads_how_many_rounds_a_run_counts(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", INFO)
    run.record(row(1), ReIDNet("mobilenet_v2"))
    assert RunRecord.read(run.path) == RunRecord(rounds=1)


def test_what_a_folder_is_good_for(tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert Run.use_of(path) is FolderUse.NEW
    run = Run.create(path, INFO)
    assert Run.use_of(path) is FolderUse.NEW, "a run that crashed at once is replaced"
    run.save_checkpoint({}, {})
    assert Run.use_of(path) is FolderUse.RESUME
    run.record(row(1), ReIDNet("mobilenet_v2"))
    run.finish(1.0, StoppedError("stop"))
    assert Run.use_of(path) is FolderUse.RESUME
    run = Run.reopen(path)
    run.finish(1.0, ClusteringError("1 cluster"))
    assert Run.use_of(path) is FolderUse.ENDED
    run.info = run.info.model_copy(update={"rounds": 0})
    assert run.use is FolderUse.NEW, "it has no network"
    run.finish(1.0)
    assert Run.use_of(path) is FolderUse.REUSE


def test_a_run_without_a_network_is_not_said_to_have_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run.create(tmp_path / "run", INFO)
    with pytest.raises(RunError, match=r"has no network: .*\(state: running\); resume or start it"):
        Run.open(run.path).network()
    run.finish(1.0, ClusteringError("1 cluster"))
    with pytest.raises(RunError, match=r"has no network: .*first round \(state: failed\); resume"):
        Run.open(run.path).network()
    assert "its network is of round" not in caplog.text
    run = Run.create(tmp_path / "run", INFO)
    run.record(row(1), ReIDNet("mobilenet_v2"))
    run.finish(1.0, ClusteringError("1 cluster"))
    Run.open(run.path).network()
    assert "did not finish: its network is of round 1" in caplog.text


def test_run_json_tells_where_the_crops_were_moved(tmp_path: Path) -> None:
    source = data("two", "source")
    run = Run.create(tmp_path / "run", run_info(data=(data("one"), source)))
    moved = data("one").model_copy(update={"root": "moved"})
    run.move_target(tmp_path / "moved", moved)
    info = Run.open(run.path).info
    assert (info.spec.target, info.data) == (tmp_path / "moved", (moved, source))


def test_what_is_there_but_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    with pytest.raises(RunError, match=r"run\.json cannot be read: Is a directory"):
        Run.open(tmp_path)
    run = Run.create(tmp_path / "run", INFO)
    run.record(row(1), ReIDNet("mobilenet_v2"), [np.arange(3)])
    (run.path / "labels.safetensors").write_bytes(b"damaged")
    with pytest.raises(RunError, match="the labels of the last round are lost"):
        run.labels()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"surprise": 1}, "is invalid: surprise"),
        ({"spec": {}}, r"is invalid: spec\."),
        ({"spec": json.loads(INFO.spec.model_dump_json()) | {"seed": -1}}, "the seed is -1"),
        (
            {"spec": json.loads(INFO.spec.model_dump_json()) | {"recipe": {"method": ["a"]}}},
            "is invalid: recipe of a run: method is not text; use one of",
        ),
        ({"spec": json.loads(INFO.spec.model_dump_json()) | {"backbone": None}}, "spec.backbone"),
    ],
)
def test_a_run_json_that_contradicts_itself_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    written = json.loads(INFO.model_dump_json()) | changes
    (tmp_path / "run.json").write_text(json.dumps(written))
    with pytest.raises(RunError, match=message):
        Run.open(tmp_path)


def test_where_nothing_can_be_locked_run_json_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run.create(tmp_path / "run", INFO)
    assert Run.open(run.path).status() == "running"
    run.release()
    assert Run.open(run.path).status() == "crashed"
    assert caplog.text == ""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert Run.open(run.path).status() == "running"
    assert "cannot be told (No locks available); run.json says running" in caplog.text
    assert "--out" not in caplog.text, "a reader chooses no folder"


@pytest.mark.parametrize("content", [b"\xff\xfe\x00binary", b"", b"{", b"[]"])
def test_a_run_json_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        Run.open(tmp_path)


def test_two_runs_do_not_write_one_folder(tmp_path: Path) -> None:
    first = Run.create(tmp_path / "run", INFO)
    for attempt in (lambda: Run.create(first.path, INFO), lambda: refuse_taken_run(first.path)):
        with pytest.raises(RunError, match="still writing there; choose another --out"):
            attempt()
    first.finish(1.0, RunError("stopped"))
    refuse_taken_run(first.path)


@pytest.mark.parametrize(
    ("stopped_by", "ended"),
    [
        (None, ("finished", "", "")),
        (ClusteringError("1 cluster"), ("failed", "CLUSTERS_COLLAPSED", "1 cluster")),
        (KeyboardInterrupt(), ("failed", "INTERRUPTED", "interrupted")),
    ],
)
def test_why_a_run_ended_is_written_down(
    tmp_path: Path, stopped_by: AdaptError | KeyboardInterrupt | None, ended: tuple[str, str, str]
) -> None:
    run = Run.create(tmp_path / "run", INFO)
    run.finish(1.0, stopped_by)
    info = Run.open(run.path).info
    assert (info.state, info.reason, info.error) == ended


def test_a_run_killed_before_its_first_round_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    half = {"__model__12__tmp": b"half", "__tmpl2kRzB": b"half"}
    path = killed(tmp_path / "run", metrics__jsonl=b'{"round"', **half)
    refuse_taken_run(path)
    assert (path / "metrics.jsonl").exists(), "asking changes nothing"
    Run.create(path, INFO)
    assert [entry.name for entry in path.iterdir()] == ["run.json"]
    assert "replacing a run that ended without a network" in caplog.text


@pytest.mark.parametrize(
    "files",
    [
        {"model__safetensors": b"a network"},
        {"notes__txt": b"mine"},
        {"run__json": b"something else"},
        {"run__json": INFO.model_copy(update={"rounds": 1}).model_dump_json().encode()},
        {"run__json": INFO.model_copy(update={"state": "finished"}).model_dump_json().encode()},
    ],
)
def test_what_may_be_of_worth_is_never_replaced(tmp_path: Path, files: dict[str, bytes]) -> None:
    path = killed(tmp_path / "run", **files)
    before = {entry.name: entry.read_bytes() for entry in path.iterdir()}
    for attempt in (lambda: Run.create(path, INFO), lambda: refuse_taken_run(path)):
        with pytest.raises(RunError, match="not empty; choose another --out or remove it"):
            attempt()
    assert {entry.name: entry.read_bytes() for entry in path.iterdir()} == before


def test_a_run_that_is_over_is_not_advised_to_continue(tmp_path: Path) -> None:
    """Its checkpoint is still there: it could not be removed."""
    run = Run.create(tmp_path / "run", INFO)
    run.save_checkpoint({}, {})
    run.release()
    with pytest.raises(RunError, match=f"continue it with --resume {run.path}"):
        refuse_taken_run(run.path)
    over = INFO.model_copy(update={"state": "failed", "reason": "DIVERGED"})
    (run.path / "run.json").write_text(over.model_dump_json())
    with pytest.raises(RunError, match=r"is not empty; choose another --out or remove it$"):
        refuse_taken_run(run.path)


def test_a_file_that_cannot_be_removed_does_not_undo_the_end_of_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run.create(tmp_path / "run", INFO)
    (run.path / "checkpoint.safetensors").mkdir()
    (run.path / "target.crops").write_bytes(b"persons")
    run.finish(1.0)
    assert Run.open(run.path).info.state == "finished"
    assert not (run.path / "target.crops").exists()
    (message,) = caplog.messages
    assert message.startswith(f"{run.path / 'checkpoint.safetensors'} cannot be removed (")


@pytest.mark.parametrize("run_json", ["damaged", "missing", "link to nowhere"])
def test_a_checkpoint_without_its_run_json_is_kept_and_named(tmp_path: Path, run_json: str) -> None:
    path = killed(tmp_path / "run", checkpoint__safetensors=b"a state")
    if run_json == "damaged":
        (path / "run.json").write_text("{")
    else:
        (path / "run.json").unlink()
    if run_json == "link to nowhere":
        (path / "run.json").symlink_to("nowhere")
    before = sorted(path.iterdir())
    for attempt in (lambda: Run.create(path, INFO), lambda: refuse_taken_run(path)):
        with pytest.raises(RunError, match=r"has a checkpoint, but .*run\.json.* choose another"):
            attempt()
    assert sorted(path.iterdir()) == before


def test_a_run_json_that_leads_nowhere_is_damage(tmp_path: Path) -> None:
    path = killed(tmp_path / "run")
    (path / "run.json").unlink()
    assert not Run.is_at(path)
    (path / "run.json").symlink_to("nowhere")
    assert Run.is_at(path)
    with pytest.raises(RunError, match=r"run\.json is a link to nowhere; restore it from a copy"):
        Run.use_of(path)


def test_who_goes_on_with_a_run_removes_what_was_half_written(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run = Run.create(path, INFO)
    run.finish(1.0, StoppedError("stop"))
    for name in (".tmpl2kRzB", ".checkpoint.safetensors.12.tmp", "notes.tmp"):
        (path / name).write_bytes(b"half")
    Run.reopen(path).finish(1.0, StoppedError("stop"))
    assert {entry.name for entry in path.iterdir()} == {"run.json", "notes.tmp"}


def test_a_folder_that_cannot_be_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(RunError, match="is a file; choose another --out"):
        refuse_taken_run(tmp_path / "file")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match="cannot make"):
            Run.create(path, INFO)


def test_the_network_is_that_of_the_recorded_rounds(tmp_path: Path) -> None:
    """When figures cannot be written, the network of the round before stays."""
    run = Run.create(tmp_path / "run", INFO)
    run.record(row(1), ReIDNet("mobilenet_v2"))
    before = run.network_hash()
    (run.path / "metrics.jsonl").unlink()
    (run.path / "metrics.jsonl").mkdir()
    with pytest.raises(RunError, match=r"cannot write to .*run.*make room there"):
        run.record(row(2), ReIDNet("mobilenet_v2"))
    assert run.network_hash() == before
    assert run.info.rounds == 1


def test_networks_of_rounds_are_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", INFO)
    nets = [ReIDNet("mobilenet_v2") for _ in range(3)]
    for number, net in enumerate(nets, start=1):
        run.info = run_info(keep_rounds=number != 2, rounds=run.info.rounds)
        run.record(row(number), net)
    run.finish(1.0)
    run = Run.open(run.path)
    assert run.kept_rounds() == [1, 3]
    for number, found in ((1, run.network(1)), (3, run.network(3)), (3, run.network())):
        wanted = nets[number - 1].state_dict()
        assert all(torch.equal(wanted[k], v) for k, v in found.state_dict().items())
    for missing in (0, 2, 4):
        with pytest.raises(RunError, match=rf"network of round {missing} \(kept: 1, 3\)"):
            run.network(missing)


def test_a_round_that_was_not_counted_is_not_kept(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", run_info(keep_rounds=True))
    run.record(row(1), ReIDNet("mobilenet_v2"))
    shutil.copyfile(run.path / "rounds/0001.safetensors", run.path / "rounds/0002.safetensors")
    assert run.kept_rounds() == [1], "the process crashed before run.json counted round 2"


def test_labels_of_the_last_round_come_back(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", INFO)
    with pytest.raises(RunError, match="has no labels"):
        run.labels()
    for number in (1, 2):
        sets = [np.arange(3) + number, np.full(3, -1)]
        run.record(row(number), ReIDNet("mobilenet_v2"), sets)
    first, second = Run.open(run.path).labels()
    np.testing.assert_array_equal(first, [2, 3, 4])
    np.testing.assert_array_equal(second, [-1, -1, -1])


def test_two_sets_of_labels_may_be_one_array(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", INFO)
    both = np.arange(4)
    run.record(row(1), ReIDNet("mobilenet_v2"), [both, both])
    for found in run.labels():
        np.testing.assert_array_equal(found, both)


def test_labels_of_another_round_are_refused(tmp_path: Path) -> None:
    """The process crashed between writing the labels of round 2 and saying so."""
    run = Run.create(tmp_path / "run", INFO)
    run.record(row(1), ReIDNet("mobilenet_v2"), [np.arange(3)])
    run.rewind(0)
    with pytest.raises(RunError, match="is of round 1, not 0"):
        run.labels()


@pytest.mark.parametrize("array", [np.zeros((2, 2), np.int64), np.zeros(2, np.float32)])
def test_damaged_labels_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    run = Run.create(tmp_path / "run", INFO)
    run.record(row(1), ReIDNet("mobilenet_v2"), [array])
    with pytest.raises(RunError, match="damaged"):
        run.labels()


def test_a_full_disk_names_what_can_be_done(tmp_path: Path) -> None:
    """A run with a checkpoint is resumed where it lies; one without begins anew, anywhere."""
    run = Run.create(tmp_path / "run", INFO)
    (run.path / "metrics.jsonl").mkdir()  # cannot be written
    with pytest.raises(RunError, match="or choose another --out, and start the run again"):
        run.record(row(1), ReIDNet("mobilenet_v2"))
    run.save_checkpoint({}, {})
    with pytest.raises(
        RunError, match=f"make room there, then resume it with --resume {run.path}$"
    ):
        run.record(row(1), ReIDNet("mobilenet_v2"))
