"""What the service says of training, and what training does: neither imports the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.data.catalog.manifest import read_manifest
from adapt.evaluation.gate import DEFAULT_RULE
from adapt.methods import METHODS
from adapt.recipes import load_recipe
from adapt.runs.folder import SOURCE_CROPS, TARGET_CROPS, Run
from adapt.workflows.job import Job, Outcome
from models.registry import Registry
from service.jobs import records
from service.jobs.folder import JobFolder
from service.jobs.runner import MIN_JUDGED, JobSetup, Work
from service.store.records import SeenCrop
from tests.service.jobs.conftest import NOW
from tests.support.tiny_runs import info


def test_methods() -> None:
    assert sorted(METHODS) == sorted(records.METHODS)
    wanting = {m for m in METHODS if load_recipe(m, method=m).options.source_wanted()}
    assert wanting == records.NEEDS_SOURCES


def test_how_many_crops_the_gate_needs() -> None:
    assert DEFAULT_RULE.min_crops == MIN_JUDGED


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


class _NoCrops:
    """A site without crops."""

    def kept_crops(self, site: str) -> list[object]:
        return []


def test_a_job_as_the_service_writes_it_is_one_that_training_reads(tmp_path: Path) -> None:
    setup = JobSetup(
        inits=(tmp_path / "a", tmp_path / "b"),
        sources=(tmp_path / "s",),
        device="cpu",
        hold_back=0.2,
        stop_s=1.0,
        own="source@1",
    )
    wish = records.Wish("daal", "daal_small", ("optimizer.lr=1e-4",), 7)
    work = Work(
        records.Adaptation("j1", "Lobby", wish, records.JobState.RUNNING, NOW),
        JobFolder(tmp_path / "j1"),
        setup,
        crops=_NoCrops(),
        registry=Registry(tmp_path / "registry"),
        in_use=lambda site: None,
        run=None,  # type: ignore[arg-type]
        pause=None,  # type: ignore[arg-type]
        interrupted=lambda: False,
    )
    work.prepare()
    assert Job.read(tmp_path / "j1") == Job(
        method="daal",
        recipe="daal_small",
        overrides=("optimizer.lr=1e-4",),
        seed=7,
        device="cpu",
        inits=setup.inits,
        sources=setup.sources,
        hold_back=0.2,
        name="lobby-4c97a9ef95cd",
        version="1",
    )


def test_cameras_and_tracks_of_a_manifest_stay_apart_when_it_is_read(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "j1")
    names = ["c1", "c1 ", " ", '"c1 "', "\u00a0"]
    both = [(camera, track) for camera in names for track in names]
    crops = [SeenCrop(n, *each, NOW, b"BM") for n, each in enumerate(both)]
    folder.prepare([crops], {})
    entries = read_manifest(folder.crops / "manifest.csv").rows
    assert len({entry.camera for entry in entries}) == len(names)
    assert len({entry.track for entry in entries}) == len(both)


@pytest.mark.parametrize("state", ["finished", "failed", "stopped"])
def test_an_outcome_as_training_writes_it_is_one_that_the_service_reads(
    tmp_path: Path, state: str
) -> None:
    said = {"state": state, "reason": "X", "error": "why"}
    Outcome.model_validate_json(json.dumps(said)).write(tmp_path)
    found = JobFolder(tmp_path).outcome()
    assert found is not None
    assert (found.state, found.reason, found.error) == (state, "X", "why")


def test_what_a_run_goes_on_from_is_removed_when_the_adaptation_is_over(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", info())
    run.path.mkdir()
    run.keep_checkpoint({}, {})
    for name in (TARGET_CROPS, SOURCE_CROPS):
        (run.path / name).write_bytes(b"pixels")
    JobFolder(tmp_path).tidy(records.JobState.CANCELLED)
    assert list(run.path.iterdir()) == []
