"""What a report is made from: the very crops, labels that fit them, models that fit each other."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="adapt needs torch")

import torch

from adapt.errors import ConfigError
from adapt.recipes import load_recipe
from adapt.report.material import gather
from adapt.runs.folder import Run
from adapt.runs.tensor_files import save_tensors
from adapt.workflows.adapt import adapt
from tests.support.specs import adapt_spec, on_cpu
from tests.support.tiny_runs import finished
from tests.support.tiny_site import KMEANS, SHORT

pytestmark = pytest.mark.usefixtures("thin")

CPU = torch.device("cpu")


def test_crops_that_were_moved_are_found_by_target(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "site", tmp_path / "moved")
    run = Run.open(home / "new")
    assert gather(run, tmp_path / "moved", None, CPU).problems == {}


def test_crops_that_have_changed_are_not_shown_for_the_others(
    home: Path, copied: Run, tmp_path: Path
) -> None:
    shutil.copytree(home / "site", tmp_path / "site")
    next((tmp_path / "site").rglob("0001_*")).unlink()
    material = gather(copied, tmp_path / "site", None, CPU)
    assert material.data is None
    assert "not those that the run learned from (24 then, 23 now)" in material.problems["crops"]


def test_crops_are_allocated_by_the_caller(home: Path) -> None:
    made: list[np.ndarray] = []

    def allocate(shape: tuple[int, ...]) -> np.ndarray:
        made.append(np.zeros(shape, np.uint8))
        return made[-1]

    material = gather(Run.open(home / "new"), None, None, CPU, allocate)
    assert material.data is not None
    assert np.shares_memory(material.data.images, made[0])
    assert len(made) == 1


def test_another_old_model_is_not_called_the_start(home: Path, copied: Run) -> None:
    material = gather(copied, None, copied, CPU)
    assert material.notes == (
        f"Before: the network of {copied.path}, which this run did NOT start from.",
    )
    np.testing.assert_array_equal(material.embeddings["before"], material.embeddings["after"])


def test_an_old_model_of_another_size_is_refused(home: Path, tmp_path: Path) -> None:
    run = Run.open(home / "new")
    size = run.info.preprocessing.model_copy(update={"height": 64})
    other = finished(tmp_path / "other", preprocessing=size)
    with pytest.raises(ConfigError, match="another size"):
        gather(run, None, other, CPU)


def test_an_old_model_of_an_older_decoder_is_compared_on_the_crops_of_the_run(
    home: Path, tmp_path: Path
) -> None:
    run = Run.open(home / "new")
    older = run.info.preprocessing.model_copy(update={"decoder": "exact-1"})
    other = finished(tmp_path / "other", preprocessing=older)
    assert set(gather(run, None, other, CPU).embeddings) == {"before", "after"}


def test_labels_of_another_number_of_crops_are_not_used(copied: Run) -> None:
    tensors = {"00": torch.zeros(5, dtype=torch.int64)}
    save_tensors(copied.path / "labels.safetensors", tensors, {"round": copied.info.rounds})
    material = gather(copied, None, None, CPU)
    assert material.labels == ()
    assert "another number of crops" in material.problems["labels"]


def test_labels_belong_to_the_crops_they_were_made_for(home: Path, copied: Run) -> None:
    """Rows follow contents, so that copies under other modification times and orders fit."""
    material = gather(copied, None, None, CPU)
    assert material.data is not None
    (labels,) = material.labels
    same = {}
    for sample, label in zip(material.data.crops.samples, labels, strict=True):
        same[sample.path.read_bytes()] = label
    assert len(same) == len(labels) == 24


def test_crops_that_were_held_back_stay_so(home: Path, tmp_path: Path) -> None:
    recipe = load_recipe("mmt_small", method="mmt", overrides=(*SHORT, *KMEANS))
    spec = adapt_spec(home / "site", [home / "old"], recipe, hold_back=0.3)
    run = adapt(spec, on_cpu(), tmp_path / "run")
    material = gather(run, None, None, CPU)
    assert material.problems == {}
    assert material.data is not None
    assert len(material.data) == run.info.data[0].crops < 24
