"""What the service says of training, and what training does: neither imports the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.job import Job, Outcome
from adapt.methods import METHODS
from adapt.recipes import load_recipe
from models.registry import Registry
from service.jobs import records
from service.jobs.folder import JobFolder
from service.jobs.supervisor import JobSetup, Supervisor
from tests.service.jobs.conftest import NOW


def test_methods() -> None:
    assert sorted(METHODS) == sorted(records.METHODS)
    wanting = {m for m in METHODS if load_recipe(m, method=m).options.source_wanted()}
    assert wanting == records.NEEDS_SOURCES


class _Rows:
    """A site without crops."""

    def kept_crops(self, site: str) -> list[object]:
        return []


def test_a_job_as_the_service_writes_it_is_one_that_training_reads(tmp_path: Path) -> None:
    setup = JobSetup((tmp_path / "a", tmp_path / "b"), (tmp_path / "s",), "cpu", 0.2, 1.0)
    supervisor = Supervisor(
        _Rows(),  # type: ignore[arg-type]
        tmp_path,
        Registry(tmp_path / "registry"),
        setup,
        bundle_of=lambda site: None,
        start=None,  # type: ignore[arg-type]
        clock=lambda: NOW,
        metrics=None,  # type: ignore[arg-type]
    )
    wish = records.Wish("daal", "daal_small", ("optimizer.lr=1e-4",), 7)
    job = records.Adaptation("j1", "Lobby", wish, records.JobState.RUNNING, NOW)
    supervisor.prepare(job)
    assert Job.read(tmp_path / "j1") == Job(
        method="daal",
        recipe="daal_small",
        overrides=("optimizer.lr=1e-4",),
        seed=7,
        device="cpu",
        inits=setup.inits,
        sources=setup.sources,
        hold_back=0.2,
        name="lobby",
        version="1",
    )


@pytest.mark.parametrize("state", ["finished", "failed", "stopped"])
def test_an_outcome_as_training_writes_it_is_one_that_the_service_reads(
    tmp_path: Path, state: str
) -> None:
    said = {"state": state, "reason": "X", "error": "why"}
    Outcome.model_validate_json(json.dumps(said)).write(tmp_path)
    found = JobFolder(tmp_path).outcome()
    assert found is not None
    assert (found.state, found.reason, found.error) == (state, "X", "why")
