"""What is written down of each round of a run."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.clustering.labels.truth import truth_figures
from adapt.recipes import load_recipe
from adapt.runs.folder import Run
from adapt.workflows.adapt import adapt
from tests.support.specs import adapt_spec, on_cpu
from tests.support.tiny_sets import write_market
from tests.support.tiny_site import SHORT, source_run

pytestmark = pytest.mark.usefixtures("thin")

DBSCAN = (
    *("clustering.algorithm=dbscan", "clustering.min_samples=2", "clustering.radius=0.7"),
    *("clustering.k1=4", "clustering.k2=1"),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Two methods on a site of known people, and one beside labels of other crops."""
    root = tmp_path_factory.mktemp("runs")
    source = write_market(root / "source", persons=3)
    inits = [source_run(source, root / f"init-{n}", n).path for n in (1, 2)]
    site = write_market(root / "site", persons=6, seed=1)
    for folder in ("query", "bounding_box_test"):
        shutil.rmtree(site / folder)
    made = {}
    for name, method, validation in (
        ("mmt", "mmt", site),
        ("nrmt", "nrmt", site),
        ("elsewhere", "mmt", source),
    ):
        recipe = load_recipe(f"{method}_small", method=method, overrides=(*SHORT, *DBSCAN))
        crops = site / "bounding_box_train"
        spec = adapt_spec(crops, inits, recipe, validation=validation)
        made[name] = adapt(spec, on_cpu(), root / name)
    return made


def test_labelled_crops_give_scores(runs: dict[str, Run]) -> None:
    for name, run in runs.items():
        (row,) = run.metrics()
        assert 0 < row["val_mAP"] <= 1
        judged = 12 if name == "elsewhere" else 24
        assert (row["val_queries"], row["val_queries_without_match"]) == (judged, 0)
        assert row["val_cmc1"] <= row["val_cmc5"] <= row["val_cmc10"] <= 1


def test_clusters_are_judged_where_the_labels_are_of_the_very_site(runs: dict[str, Run]) -> None:
    (row,) = runs["mmt"].metrics()
    (labels,) = runs["mmt"].labels()
    site = Path(runs["mmt"].info.data[0].root)
    by_content = {f.read_bytes(): int(f.name[:4]) for f in site.glob("*.png")}
    assert len(by_content) == len(labels)
    order = sorted(by_content, key=_hashed)
    persons = np.array([by_content[content] for content in order])
    expected = truth_figures(labels, persons)
    assert {k: row[f"val_{k}"] for k in expected} == expected
    (row,) = runs["nrmt"].metrics()
    assert {"val_ari_1", "val_ari_2", "val_pair_f_1", "val_pair_f_2"} <= set(row)


def _hashed(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def test_labels_of_other_crops_do_not_judge_clusters(runs: dict[str, Run]) -> None:
    (row,) = runs["elsewhere"].metrics()
    assert not [name for name in row if name.startswith(("val_ari", "val_pair_f"))]


def test_the_radius_and_the_stages_of_labelling_are_figures(runs: dict[str, Run]) -> None:
    (row,) = runs["mmt"].metrics()
    assert row["radius"] == 0.7
    stages = {"extract", "neighbors", "encoding", "radius", "jaccard", "clusters", "relabel"}
    assert {f"seconds_{stage}" for stage in (*stages, "train")} <= set(row)
    (row,) = runs["nrmt"].metrics()
    assert (row["radius_1"], row["radius_2"]) == (0.7, 0.7)
    assert 0 <= row["active_1"] <= 1
