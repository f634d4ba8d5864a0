"""A plan reads what a run would read, stops where a run would stop, and writes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.config import BatchShape, Clustering, MethodOptions, Recipe, Schedule  # noqa: E402
from adapt.errors import RunError, TooFewCropsError  # noqa: E402
from adapt.methods.daal import DAALOptions  # noqa: E402
from adapt.methods.mmt import MMTOptions  # noqa: E402
from adapt.workflows.plan import AdaptationPlan, plan_adaptation  # noqa: E402
from tests.support.specs import adapt_spec, on_cpu  # noqa: E402
from tests.support.tiny_sets import write_market  # noqa: E402
from tests.support.tiny_site import source_run  # noqa: E402


def recipe(method: str, options: MethodOptions, **changes: object) -> Recipe:
    settings: dict[str, object] = {
        "schedule": Schedule(rounds=7, iterations=3),
        "batch": BatchShape(identities=3, instances=2),
        "clustering": Clustering(clusters=6),
        **changes,
    }
    return Recipe(method=method, options=options, **settings)


MMT = recipe("mmt", MMTOptions())


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source")
    return source_run(write_market(root / "set", persons=3), root / "run", 1).path


def planned(target: Path, init: Path, out: Path, **changes: object) -> AdaptationPlan:
    settings = {"recipe": MMT, **changes}
    spec = adapt_spec(target, [init], **settings)  # type: ignore[arg-type]
    return plan_adaptation(spec, on_cpu(), out, patience=0)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, init: Path) -> AdaptationPlan:
    """Of a site with one crop that cannot be read and one file that is none."""
    root = write_market(tmp_path_factory.mktemp("site") / "site")
    (root / "bounding_box_train" / "0001_c1s1_000009_00.png").write_text("no image")
    (root / "bounding_box_train" / "Thumbs.db").write_text("none")
    before = sorted(os.walk(root.parent))
    plan = planned(root, init, root.parent / "out")
    assert sorted(os.walk(root.parent)) == before, "nothing is written"
    return plan


def test_what_would_be_done(plan: AdaptationPlan) -> None:
    assert len(plan.crops) == 24
    assert plan.crops.cameras == ("c1", "c2")
    assert {drop.image for drop in plan.crops.dropped} == {True, False}
    assert plan.networks == ("theta_1", "theta_2", "E_1", "E_2")
    assert (plan.trained, plan.views, plan.clusters, plan.steps) == (2, 2, 6, 3)
    assert (plan.backbone, plan.device, plan.source_crops) == ("resnet18", "cpu", 0)


def test_time_adds_up(plan: AdaptationPlan) -> None:
    s = plan.seconds
    assert min(s.read, s.extract, s.label, s.train) > 0
    assert s.scoring == 0
    assert plan.total_seconds == pytest.approx(s.read + 7 * (s.extract + s.label + s.train))


def test_memory_adds_up(plan: AdaptationPlan) -> None:
    m = plan.memory
    assert m.labelling == 0, "k-means has no graph"
    assert m.host == m.measured + m.labelling
    assert m.measured > m.networks + m.training + m.activations
    assert m.device is None


def test_disk_adds_up(plan: AdaptationPlan) -> None:
    d = plan.disk
    assert d.crops == 24 * 32 * 16 * 3
    assert d.embeddings == 24 * 512 * 4 * (2 + 1 + 1 + 2), "two tables, mean, centered, float64"
    m = plan.memory
    adam = m.training - m.training // 3  # two moments beside each gradient
    assert d.checkpoints == pytest.approx(2 * (m.networks + adam), rel=1e-3)
    assert d.all == d.crops + d.embeddings + d.checkpoints


def test_what_distances_take(market: Callable[..., Path], init: Path, tmp_path: Path) -> None:
    dbscan = recipe("mmt", MMTOptions(), clustering=Clustering(algorithm="dbscan", radius=0.5))
    plan = planned(market("site"), init, tmp_path / "out", recipe=dbscan, hold_back=0.3)
    left = len(plan.crops)
    assert 0 < plan.crops.held_back == 24 - left
    assert plan.memory.labelling == left * 2 * 2048, "of each of two networks, as AML holds them"
    assert plan.disk.embeddings == left * 512 * 4 * (2 + 1 + 2)


def test_source_crops_and_scoring_count(
    market: Callable[..., Path], init: Path, tmp_path: Path
) -> None:
    site = market("site", seed=5)
    plan = planned(
        site,
        init,
        tmp_path / "out",
        recipe=recipe("daal", DAALOptions(), schedule=Schedule(rounds=1, passes=2)),
        sources=[market("source")],
        validation=site,
    )
    assert plan.source_crops == 24
    assert plan.steps == 2 * 24 // 6
    assert plan.seconds.scoring > 0
    assert plan.disk.crops == 2 * 24 * 32 * 16 * 3, "site and source"


def test_tracks_are_counted_after_thinning(
    market: Callable[..., Path], init: Path, tmp_path: Path
) -> None:
    folder = market("site") / "bounding_box_train"
    crops = sorted(path.name for path in folder.glob("*.png"))
    rows = [f"{name},{name[5:7]},{name[:7]},{n}" for n, name in enumerate(crops)]
    rows[-1] = f"{crops[-1]},c2,,"
    (folder / "manifest.csv").write_text("\n".join(["path,camera,track,time", *rows]))
    plan = planned(folder, init, tmp_path / "out")
    assert plan.crops.thinned == 11, "one of two in 11 tracks; their noise makes no difference"
    assert len(plan.crops) == 13


def test_a_plan_stops_where_a_run_would(
    market: Callable[..., Path], init: Path, tmp_path: Path
) -> None:
    site = market("site")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match="not empty"):
        planned(site, init, tmp_path / "full")
    wide = recipe("mmt", MMTOptions(), batch=BatchShape(identities=16, instances=4))
    with pytest.raises(TooFewCropsError, match="24 crops, this recipe needs at least 64"):
        planned(site, init, tmp_path / "out", recipe=wide)
