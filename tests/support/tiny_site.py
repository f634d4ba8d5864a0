"""A site of a few crops, with two source networks trained for one step."""

from __future__ import annotations

from pathlib import Path

from adapt.evaluation.scoring import LabelledCrops
from adapt.recipes import load_recipe
from adapt.runs.checkpoints import StopRequest
from adapt.runs.folder import Run
from adapt.workflows.fit import Machine
from adapt.workflows.training import pretrain
from benchmarks.methods.runs import CPU, BenchmarkSite
from models.image import Preprocessing
from tests.support.tiny_sets import write_market

SIZE = Preprocessing(height=32, width=16)
SHORT = (
    "schedule.rounds=1",
    "schedule.iterations=1",
    "batch.identities=2",
    "batch.instances=2",
    "augment.pad=1",
)
KMEANS = ("clustering.algorithm=kmeans", "clustering.clusters=4")


def source_run(data: Path, out: Path, seed: int, stop: StopRequest | None = None) -> Run:
    return pretrain(
        [data],
        splits=("train",),
        backbone="resnet18",
        weights=None,
        preprocessing=SIZE,
        recipe=load_recipe("source_small", method="source", overrides=SHORT),
        recipe_name="test",
        out=out,
        machine=Machine(CPU, seed),
        stop=stop,
    )


def tiny_site(root: Path, *overrides: str) -> BenchmarkSite:
    source = write_market(root / "source", persons=3)
    target = write_market(root / "target", persons=6, seed=1)
    first, second = (source_run(source, root / f"source-{n}", n) for n in (1, 2))
    judged = LabelledCrops.read(target, SIZE)
    return BenchmarkSite(target, source, ("train",), (first, second), judged, (*SHORT, *overrides))
