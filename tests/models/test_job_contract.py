from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models.errors import DamagedFileError
from models.job_contract import (
    MAX_ROUND_BYTES,
    AdaptationRound,
    GateVerdict,
    Job,
    JobOutcome,
    read_rounds,
    read_rounds_after,
    read_rows,
)

JOB: dict[str, Any] = {
    "method": "daal",
    "recipe": "daal_small",
    "overrides": ("optimizer.lr=1e-4",),
    "seed": 7,
    "device": "cpu",
    "inits": (Path("/a"), Path("/b")),
    "sources": (Path("/s"),),
    "hold_back": 0.2,
    "name": "lobby",
    "version": "1",
}


def test_a_job_comes_back_as_it_was_written(tmp_path: Path) -> None:
    job = Job(**JOB)
    job.write(tmp_path)
    assert Job.read(tmp_path) == job
    assert json.loads((tmp_path / "job.json").read_text())["inits"] == ["/a", "/b"]


@pytest.mark.parametrize("fields", [{"method": "source"}, {"seed": "x"}, {"surprise": 1}])
def test_a_job_with_an_invalid_field_is_an_error(tmp_path: Path, fields: dict[str, Any]) -> None:
    Job(**JOB).write(tmp_path)
    file = tmp_path / "job.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    with pytest.raises(DamagedFileError, match=rf"{file} is damaged \({next(iter(fields))}: "):
        Job.read(tmp_path)


@pytest.mark.parametrize("state", ["finished", "failed", "stopped"])
def test_an_outcome_comes_back_as_it_was_written(tmp_path: Path, state: Any) -> None:
    outcome = JobOutcome(state=state, reason="X", error="why")
    outcome.write(tmp_path)
    assert JobOutcome.read(tmp_path) == outcome


def test_an_absent_file_is_not_a_damaged_one(tmp_path: Path) -> None:
    for read in (Job.read, JobOutcome.read, GateVerdict.read):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        read_rounds(tmp_path / "nothing")


def test_a_verdict_is_read_without_the_figures_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "gate.json"
    file.write_text(
        json.dumps({"verdict": "hold", "reasons": ["few"], "crops": 3, "against": "a@1"})
    )
    assert GateVerdict.read(file) == GateVerdict(verdict="hold", reasons=("few",))


ROW: dict[str, object] = {"round": 1, "labels": "dbscan", "warnings": []}
SECOND = ROW | {"round": 2}


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({}, "no round"),
        ({"round": 1, "warnings": []}, "no labels"),
        ({"round": 1, "labels": ""}, "no warnings"),
        (SECOND | {"round": "1"}, "round is not an integer"),
        (SECOND | {"round": True}, "round is not an integer"),
        (SECOND | {"round": 3}, "it holds round 3"),
        (SECOND | {"labels": 3}, "labels is not text"),
        (SECOND | {"warnings": "x"}, "warnings is not a list of texts"),
        (SECOND | {"warnings": [1]}, "warnings is not a list of texts"),
        (SECOND | {"seconds_train": "1"}, "seconds_train is not a number"),
        (SECOND | {"loss": None}, "loss is not a number"),
        (SECOND | {"loss": True}, "loss is not a number"),
        (SECOND | {"loss": 10**400}, "loss is too large a number"),
        (SECOND | {"labels": "\ud800"}, "a text is not Unicode"),
        (SECOND | {"warnings": ["a", "\udfff"]}, "a text is not Unicode"),
        (SECOND | {"loss \ud800": 1.0}, "a text is not Unicode"),
    ],
)
def test_a_line_that_is_no_round_is_an_error(
    tmp_path: Path, row: dict[str, object], fault: str
) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(json.dumps(ROW) + "\n" + json.dumps(row) + "\n")
    for read in (read_rounds, read_rows, lambda path: read_rounds_after(path, 1)):
        with pytest.raises(DamagedFileError, match=rf"{file} is damaged in line 2 \({fault}\)"):
            read(file)
    assert read_rounds_after(file, 2) == ([], False)
    assert read_rows(file, slice(1)) == [ROW]
    with pytest.raises(DamagedFileError, match="in line 2"):
        read_rows(file, slice(1, 2))
    file.write_text(json.dumps(ROW) + "\n" + json.dumps(SECOND) + "\n")
    assert read_rows(file, slice(1, 2)) == [SECOND]


def test_figures_of_a_round_are_its_numbers(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    row = {"round": 1, "labels": "dbscan", "warnings": ["odd"], "loss": 1.5, "n": 3}
    file.write_text(json.dumps(row) + "\n")
    expected = AdaptationRound(1, "dbscan", ("odd",), {"loss": 1.5, "n": 3.0})
    assert read_rounds(file) == [expected]
    assert read_rows(file) == [row]


def test_many_rounds_are_read_in_parts(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    with pytest.raises(FileNotFoundError):
        read_rounds_after(file, 0)
    labels = "x" * (MAX_ROUND_BYTES - 100)
    with file.open("w") as stream:
        for number in range(1, 11):
            row = {"round": number, "labels": labels, "warnings": [], "loss": number}
            stream.write(json.dumps(row) + "\n")
        stream.write('{"round": 11, "lab')
    found: list[AdaptationRound] = []
    left, parts = True, 0
    while left:
        more, left = read_rounds_after(file, len(found))
        found += more
        parts += 1
    assert parts == 3
    assert found == read_rounds(file)
    assert len(found) == 10


def test_a_line_that_is_too_long_is_damage(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    start = json.dumps(ROW)[:-1]
    for end in ("}\n", ""):
        file.write_text(json.dumps(ROW) + "\n" + start + " " * MAX_ROUND_BYTES + end)
        with pytest.raises(DamagedFileError, match=r"in line 2 \(more than 65536 bytes\); restore"):
            read_rounds_after(file, 0)
    file.write_text(start + " " * (MAX_ROUND_BYTES - len(start) - 1) + "}\n")
    assert len(read_rounds_after(file, 0)[0]) == 1
