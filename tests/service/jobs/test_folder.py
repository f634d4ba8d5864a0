from __future__ import annotations

import csv
import errno
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from models.errors import DamagedFileError
from models.job_contract import (
    CHECKPOINT_FILE,
    RESUME_FILES,
    AdaptationRound,
    GateVerdict,
    Job,
    JobOutcome,
)
from service.jobs.folder import JobFolder, remove_folders, tidy_all
from service.jobs.records import JobState
from service.store.records import SeenCrop
from tests.service.jobs.conftest import JOB

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def seen(row: int, camera: str, image: bytes = b"\xff\xd8\xff", track: str = "") -> SeenCrop:
    return SeenCrop(row, camera, track, NOON, image)


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path / "jobs" / "j1")


def manifest(folder: JobFolder) -> list[dict[str, str]]:
    with (folder.crops / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_crops_lie_by_camera_with_a_manifest(folder: JobFolder) -> None:
    assert not folder.prepared
    folder.prepare([[seen(7, "door")], [seen(9, "yard", b"\x89PNG"), seen(12, "door")]], JOB)
    assert folder.prepared
    files = sorted(p.relative_to(folder.crops).as_posix() for p in folder.crops.rglob("*.*"))
    assert files == ["0001/00000007.jpg", "0001/00000012.jpg", "0002/00000009.png", "manifest.csv"]
    assert (folder.crops / "0002/00000009.png").read_bytes() == b"\x89PNG"
    assert [(row["path"], row["camera"]) for row in manifest(folder)] == [
        ("0001/00000007.jpg", "door"),
        ("0002/00000009.png", "yard"),
        ("0001/00000012.jpg", "door"),
    ]
    assert list(manifest(folder)[0]) == ["path", "camera", "track", "time"]
    assert datetime.fromisoformat(manifest(folder)[0]["time"]) == NOON
    assert Job.read(folder.path) == JOB
    assert folder.path.stat().st_mode & 0o077 == 0


def test_no_name_of_a_camera_leaves_the_folder(folder: JobFolder) -> None:
    names = ["../../x", "/etc", ".", "..", 'a,"b"', "x" * 128, "C", "c", "all"]
    folder.prepare([[seen(n, name) for n, name in enumerate(names)]], JOB)
    rows = manifest(folder)
    assert [row["camera"] for row in rows] == names
    assert len({Path(row["path"]).parent for row in rows}) == len(names)
    for row in rows:
        assert (folder.crops / row["path"]).resolve().is_relative_to(folder.crops.resolve())
    assert {path.name for path in folder.path.parent.iterdir()} == {"j1"}


def test_the_same_track_of_two_cameras_is_two(folder: JobFolder) -> None:
    folder.prepare([[seen(1, "door", track="4"), seen(2, "yard", track="4"), seen(3, "yard")]], JOB)
    tracks = [row["track"] for row in manifest(folder)]
    assert len(set(tracks)) == 3
    assert tracks[2] == ""


def test_any_legal_name_is_read_as_it_is(folder: JobFolder) -> None:
    names = ["c1", "c 1", '"', '"c1"', "a,b", "lobby/3"]
    folder.prepare([[seen(n, name, track=name) for n, name in enumerate(names)]], JOB)
    assert [row["camera"] for row in manifest(folder)] == names
    folder.prepare([[seen(n, "door", track=name) for n, name in enumerate(names)]], JOB)
    assert [row["track"] for row in manifest(folder)] == [f"0001-{name}" for name in names]


@pytest.mark.parametrize("year", [1969, 2100])
def test_impossible_times_are_left_out(folder: JobFolder, year: int) -> None:
    crop = SeenCrop(1, "door", "", datetime(year, 6, 1, tzinfo=UTC), b"BM")
    folder.prepare([[crop]], JOB)
    assert manifest(folder)[0]["time"] == ""


def test_what_a_crash_left_half_written_is_replaced(
    folder: JobFolder, caplog: pytest.LogCaptureFixture
) -> None:
    (folder.crops / "0009").mkdir(parents=True)
    folder.prepare([[seen(1, "door")]], JOB)
    assert caplog.messages == [f"{folder.path} was left half written: it is written anew"]
    assert sorted(path.name for path in folder.crops.iterdir()) == ["0001", "manifest.csv"]


@pytest.mark.parametrize("made", ["run", "bundle"])
@pytest.mark.parametrize("lost", ["missing", "link to nowhere"])
def test_a_run_whose_job_is_lost_is_not_taken_for_half_written(
    folder: JobFolder, made: str, lost: str
) -> None:
    folder.prepare([[seen(1, "door")]], JOB)
    (folder.path / "job.json").unlink()
    if lost == "link to nowhere":
        (folder.path / "job.json").symlink_to("nowhere")
    (folder.path / made).mkdir()
    (folder.path / made / CHECKPOINT_FILE).write_bytes(b"weeks")
    before = sorted(folder.path.rglob("*"))
    assert not folder.prepared
    with pytest.raises(DamagedFileError, match=rf"j1 has a {made} but no job\.json, .* start ano"):
        folder.prepare([[seen(1, "door")]], JOB)
    assert sorted(folder.path.rglob("*")) == before


@pytest.mark.parametrize("made", ["run", "bundle"])
def test_a_run_on_a_disk_that_is_not_mounted_is_not_begun_anew(
    folder: JobFolder, made: str
) -> None:
    folder.path.mkdir(parents=True)
    (folder.path / made).symlink_to("unmounted")
    with pytest.raises(DamagedFileError, match=rf"has a {made} but no job\.json"):
        folder.prepare([[seen(1, "door")]], JOB)
    assert (folder.path / made).is_symlink()


def test_rounds_are_those_whose_line_is_whole(folder: JobFolder) -> None:
    assert folder.rounds() == []
    folder.run.mkdir(parents=True)
    raw = {
        "round": 1,
        "labels": "dbscan",
        "warnings": ["odd"],
        "loss": 1.5,
    }
    (folder.run / "metrics.jsonl").write_text(json.dumps(raw) + "\n" + '{"round": 2, "lo')
    assert folder.rounds() == [AdaptationRound(1, "dbscan", ("odd",), {"loss": 1.5})]


@pytest.mark.parametrize("left", ["", "cut", None])
def test_rounds_that_a_run_counts_are_not_none_once_it_is_over(
    folder: JobFolder, left: str | None
) -> None:
    folder.run.mkdir(parents=True)
    lines = [json.dumps({"round": n, "labels": "", "warnings": []}) + "\n" for n in (1, 2, 3)]
    metrics = folder.run / "metrics.jsonl"
    metrics.write_text("".join(lines))
    (folder.run / "run.json").write_text('{"format": 2, "rounds": 2}')
    assert len(folder.rounds_after(0, over=True)[0]) == 3, "the last one was not counted any more"
    if left is None:
        metrics.unlink()
    else:
        metrics.write_text(lines[0] + lines[1][:-2] if left == "cut" else left)
    for after in (0, 1, 2):
        with pytest.raises(
            DamagedFileError, match=rf"{metrics} is .* 2 .*; restore it from a copy"
        ):
            folder.rounds_after(after, over=True)
    found, left_over = folder.rounds_after(0, over=False)
    assert (len(found), left_over) == (1 if left == "cut" else 0, False), "a resume makes up for it"


def test_a_folder_that_was_removed_by_hand_has_no_rounds(folder: JobFolder) -> None:
    assert folder.rounds_after(0, over=True) == ([], False)


@pytest.mark.parametrize("content", ["", "{}", '{"rounds": -1}', '{"rounds": "two"}'])
def test_a_run_that_counts_nothing_readable_is_damaged(folder: JobFolder, content: str) -> None:
    folder.run.mkdir(parents=True)
    (folder.run / "run.json").write_text(content)
    with pytest.raises(DamagedFileError, match=r"run\.json is damaged"):
        folder.rounds_after(0, over=True)


def test_how_a_process_ended(folder: JobFolder) -> None:
    folder.path.mkdir(parents=True)
    assert folder.outcome() is None
    outcome = JobOutcome(state="failed", reason="DIVERGED", error="nan")
    outcome.write(folder.path)
    assert folder.outcome() == outcome
    folder.discard_outcome()
    assert folder.outcome() is None


def test_what_the_gate_said(folder: JobFolder) -> None:
    folder.path.mkdir(parents=True)
    assert folder.verdict() is None
    folder.gate_file.write_text(json.dumps({"verdict": "hold", "reasons": ["few"], "crops": 3}))
    assert folder.verdict() == GateVerdict(verdict="hold", reasons=("few",))
    folder.discard_verdict()
    assert folder.verdict() is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"state": "gone"}', None])
def test_a_damaged_file_is_an_error_not_an_absent_one(
    folder: JobFolder, content: bytes | None
) -> None:
    folder.run.mkdir(parents=True)
    for name, read in (
        ("outcome.json", folder.outcome),
        ("gate.json", folder.verdict),
        ("run/metrics.jsonl", folder.rounds),
    ):
        if content is None:
            (folder.path / name).mkdir()
        else:
            (folder.path / name).write_bytes(content + b"\n")
        with pytest.raises(DamagedFileError, match=str(folder.path / name)):
            read()


def test_the_last_line_of_the_log(folder: JobFolder) -> None:
    folder.path.mkdir(parents=True)
    assert folder.last_log_line() == ""
    folder.log.write_bytes(b"first\nMemoryError: \xff\n\n")
    assert folder.last_log_line() == "MemoryError: \ufffd"
    folder.log.write_bytes(b"long\n" * 10_000 + b"the end\n")
    assert folder.last_log_line() == "the end"


def test_crops_are_gone_when_it_is_over(folder: JobFolder) -> None:
    root = folder.path.parent
    going_on = {"checkpoint.safetensors", "target.crops", "source.crops"}
    for name in ("runs", "done", "failed", "cancelled", "copy"):
        job = JobFolder(root / name)
        job.prepare([[seen(1, "door")]], JOB)
        (job.path / "run").mkdir()
        for file in ("metrics.jsonl", *going_on):
            (job.path / "run" / file).write_bytes(b"")
        job.bundle.mkdir()
    besides = tidy_all(
        root,
        {
            "runs": JobState.RUNNING,
            "done": JobState.SUCCEEDED,
            "failed": JobState.FAILED,
            "cancelled": JobState.CANCELLED,
            "waits": JobState.PENDING,
        },
    )
    left = {
        name: {p.name for p in (root / name).rglob("*")} - {"job.json", "run", "metrics.jsonl"}
        for name in ("runs", "done", "failed", "cancelled", "copy")
    }
    crops = {"crops", "0001", "00000001.jpg", "manifest.csv"}
    assert left["runs"] == crops | going_on | {"bundle"}
    assert left["done"] == set()
    assert left["failed"] == {"bundle"}
    assert left["cancelled"] == set()
    assert left["copy"] == left["runs"], "what is of no adaptation is left alone"
    assert besides == {"copy"}
    assert tidy_all(root / "nowhere", {}) == set()


def test_crops_that_cannot_be_removed_are_reported_and_hold_up_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("one", "two"):
        JobFolder(tmp_path / name).prepare([[seen(1, "door")]], JOB)
    crops = JobFolder(tmp_path / "one").crops
    crops.rename(tmp_path / "elsewhere")
    crops.symlink_to(tmp_path / "elsewhere")  # a link is not followed
    tidy_all(tmp_path, {"one": JobState.CANCELLED, "two": JobState.CANCELLED})
    (message,) = caplog.messages
    assert message.startswith(
        f"{tmp_path / 'one'} has files that cannot be removed; remove them by hand: {crops}: "
    )
    assert not JobFolder(tmp_path / "two").crops.exists()


def stuck(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Files of these names cannot be removed."""
    unlink = os.unlink

    def refuse(path: Any, *, dir_fd: int | None = None) -> None:
        if Path(path).name in names:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuse)


def full_folder(path: Path) -> JobFolder:
    """The folder of an adaptation that was cancelled in training."""
    job = JobFolder(path)
    job.prepare([[seen(number, "door") for number in (1, 2, 3)], [seen(4, "yard")]], JOB)
    job.run.mkdir()
    for name in RESUME_FILES:
        (job.run / name).write_bytes(b"x")
    job.bundle.mkdir()
    (job.bundle / "model.onnx").write_bytes(b"x")
    return job


def files_below(path: Path) -> set[str]:
    return {file.name for file in path.rglob("*") if file.is_file()}


def test_one_file_that_cannot_be_removed_keeps_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = full_folder(tmp_path / "job")
    stuck(monkeypatch, "00000002.jpg", CHECKPOINT_FILE)
    with pytest.raises(OSError, match="Permission denied") as error:
        job.tidy(JobState.CANCELLED)
    assert files_below(job.path) == {"job.json", "00000002.jpg", CHECKPOINT_FILE}
    for path in (job.crops / "0001" / "00000002.jpg", job.run / CHECKPOINT_FILE):
        assert str(path) in str(error.value)
    assert "00000003.jpg" not in str(error.value)


def test_of_a_deleted_site_all_is_removed_that_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = full_folder(tmp_path / "job")
    stuck(monkeypatch, "00000002.jpg")
    assert remove_folders(tmp_path, ["job"]) == []
    assert files_below(tmp_path) == {"00000002.jpg"}
    assert str(job.crops / "0001" / "00000002.jpg") in caplog.text


def test_only_folders_that_are_named_are_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("gone", "stays"):
        JobFolder(tmp_path / name).prepare([[seen(1, "door")]], JOB)
    (tmp_path / "link").symlink_to("stays")
    with caplog.at_level("INFO"):
        assert remove_folders(tmp_path, ["gone", "never there", "link"]) == ["gone", "never there"]
    assert not (tmp_path / "gone").exists()
    assert JobFolder(tmp_path / "stays").prepared
    removed, kept = caplog.messages
    assert removed == f"removed {tmp_path / 'gone'}: its site was deleted"
    assert kept.startswith(f"{tmp_path / 'link'} of a deleted site cannot be removed")


def test_folders_on_a_disk_that_is_not_mounted_are_not_taken_for_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Their crops would stay for ever, with nobody to know of them."""
    disk, root = tmp_path / "disk", tmp_path / "jobs"
    root.symlink_to(disk)
    assert remove_folders(root, ["j1"]) == []
    assert f"{root} leads nowhere" in caplog.text
    JobFolder(disk / "j1").prepare([[seen(1, "door")]], JOB)
    assert remove_folders(root, ["j1"]) == ["j1"]
    assert list(disk.iterdir()) == []
