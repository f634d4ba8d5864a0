"""The contract between server and job (`models.job_contract`), against what training does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.data.catalog.manifest import read_manifest
from adapt.evaluation.gate import DEFAULT_RULE, GateReport
from adapt.methods import METHODS
from adapt.recipes import load_recipe
from adapt.runs.folder import SOURCE_CROPS, TARGET_CROPS, Run
from models import job_contract
from models.job_contract import GateVerdict
from service.jobs.folder import JobFolder
from service.jobs.records import JobState
from service.store.records import SeenCrop
from tests.service.jobs.conftest import JOB, NOW
from tests.support.tiny_runs import info


def test_methods() -> None:
    assert sorted(METHODS) == sorted(job_contract.METHODS)
    wanting = {m for m in METHODS if load_recipe(m, method=m).options.source_wanted()}
    assert wanting == job_contract.NEEDS_SOURCES


def test_a_report_of_the_gate_is_a_verdict(tmp_path: Path) -> None:
    report = GateReport("reject", ("worse in all",), 120, 40, DEFAULT_RULE)
    (tmp_path / "gate.json").write_text(json.dumps(report.to_dict()))
    expected = GateVerdict(verdict="reject", reasons=("worse in all",))
    assert GateVerdict.read(tmp_path / "gate.json") == expected


def test_no_value_that_a_caller_can_change_names_a_file() -> None:
    """What is text in a recipe is one of a few words, or says where the recipe comes from."""
    free = {
        f"{method}: {name}"
        for method in METHODS
        for name in _texts(load_recipe(method, method=method))
    }
    assert free == {f"{method}: {name}" for method in METHODS for name in ("method", "source")}


def _texts(model: BaseModel, prefix: str = "") -> Iterator[str]:
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _texts(value, f"{prefix}{name}.")
        elif {str, Path} & _parts(field.annotation):
            yield f"{prefix}{name}"


def _parts(annotation: object) -> set[object]:
    if get_origin(annotation) is Literal:
        return set()
    inner = get_args(annotation)
    return set().union(*map(_parts, inner)) if inner else {annotation}


def test_cameras_and_tracks_of_a_manifest_stay_apart_when_it_is_read(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "j1")
    names = ["c1", "c 1", '"c1"', '"', "a,b"]
    both = [(camera, track) for camera in names for track in names]
    crops = [SeenCrop(n, *each, NOW, b"BM") for n, each in enumerate(both)]
    folder.prepare([crops], JOB)
    entries = read_manifest(folder.crops / "manifest.csv").rows
    assert len({entry.camera for entry in entries}) == len(names)
    assert len({entry.track for entry in entries}) == len(both)


def test_what_a_run_is_resumed_from_is_removed_when_the_adaptation_is_over(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", info())
    run.path.mkdir()
    run.save_checkpoint({}, {})
    for name in (TARGET_CROPS, SOURCE_CROPS):
        (run.path / name).write_bytes(b"pixels")
    JobFolder(tmp_path).tidy(JobState.CANCELLED)
    assert list(run.path.iterdir()) == []
