"""An earlier run is used again only if it was asked for the same."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="runs are trained by torch")

from adapt.errors import RunError
from adapt.recipes import load_recipe
from adapt.runs.spec import RunSpec
from adapt.workflows.reproduce import NOT_COMPARED, PlannedRun, earlier_run
from models.image import Preprocessing
from tests.support.tiny_runs import finished, spec

OTHER = {
    "kind": "pretrain",
    "recipe": load_recipe("mmt_small", method="mmt", overrides=("optimizer.lr=1e-5",)),
    "recipe_name": "another",
    "seed": 2,
    "backbone": "resnet18",
    "preprocessing": Preprocessing(height=32, width=24),
    "weights": "torchvision",
    "inits": (Path("/runs/another"),),
    "target": Path("/sites/another"),
    "camera_pattern": "c([0-9])",
    "hold_back": 0.5,
    "sources": (Path("/sets/another"),),
    "splits": ("train", "query"),
    "validation": Path("/sets/another"),
    "keep_rounds": True,
}
"""Another value of each field than the tiny run has."""


@pytest.mark.parametrize("field", RunSpec.model_fields)
def test_every_field_is_compared_or_an_exception(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A field that is new has no value in `OTHER`: say there and in `NOT_COMPARED` what it is."""
    # One field alone may contradict the others, which `absolute` would refuse.
    monkeypatch.setattr(RunSpec, "absolute", lambda asked: asked)
    run = finished(tmp_path / "run")
    asked = spec()
    assert earlier_run(PlannedRun(asked, run.path)) is not None
    other = PlannedRun(asked.model_copy(update={field: OTHER[field]}), run.path)
    assert getattr(other.spec, field) != getattr(asked, field)
    if field in NOT_COMPARED:
        assert earlier_run(other) is not None
    else:
        with pytest.raises(RunError, match=rf"other settings \({field}\); choose another --out"):
            earlier_run(other)


def test_a_run_that_an_older_version_began_is_continued(tmp_path: Path) -> None:
    size = Preprocessing(height=32, width=16, decoder="exact-1")
    run = finished(tmp_path / "run", preprocessing=size)
    found = earlier_run(PlannedRun(spec(), run.path))
    assert found is not None
    assert found.info.preprocessing == size


def test_every_exception_is_a_field_with_a_reason() -> None:
    assert set(NOT_COMPARED) < set(RunSpec.model_fields)
    assert all(NOT_COMPARED.values())
