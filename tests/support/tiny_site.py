"""A site of a few crops, with two source networks trained for one step."""

from __future__ import annotations

from pathlib import Path

from adapt.evaluation.scoring import LabelledCrops
from adapt.runs.folder import Run
from adapt.runtime.context import RunContext, StopRequest
from adapt.workflows.pretrain import pretrain
from benchmarks.methods.runs import BenchmarkSite
from tests.support.specs import CPU, SHORT, SIZE, pretrain_spec
from tests.support.tiny_sets import write_market

__all__ = ["KMEANS", "SHORT", "SIZE", "source_run", "tiny_site"]
KMEANS = ("clustering.algorithm=kmeans", "clustering.clusters=4")


def source_run(data: Path, out: Path, seed: int, stop: StopRequest | None = None) -> Run:
    context = RunContext(CPU, stop=stop or StopRequest())
    return pretrain(pretrain_spec(data, seed), context, out)


def tiny_site(root: Path, *overrides: str) -> BenchmarkSite:
    source = write_market(root / "source", persons=3)
    target = write_market(root / "target", persons=6, seed=1)
    first, second = (source_run(source, root / f"source-{n}", n) for n in (1, 2))
    judged = LabelledCrops.read(target, SIZE)
    return BenchmarkSite(target, source, ("train",), (first, second), judged, (*SHORT, *overrides))
