"""Parts `synthetic` and `ablations`: the demo's pair of sites, anew for each seed."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

from adapt.data.catalog.folders import read_market
from adapt.data.catalog.sources import merge_sources
from adapt.evaluation.scoring import LabelledCrops
from adapt.runs.folder import Run
from adapt.runs.info import Origin
from adapt.runtime.context import RunContext
from adapt.synthetic import SiteSpec, render_site
from adapt.workflows.pretrain import pretrain
from adapt.workflows.session import weights_hash
from benchmarks.methods.arms import ABLATIONS, ARMS, SUPERVISED, chosen
from benchmarks.methods.compare import compare
from benchmarks.methods.runs import CPU, BenchmarkSite, Wanted, made
from cli.demo import DemoPlan, demo_plan, site_specs, source_seed, source_spec

DEMO_IMAGES = ("augment.pad=3", "augment.erase=0.0")
"""What fits images of 64x32, as in the demo's own recipe (`mmt_demo`)."""


def synthetic(options: argparse.Namespace) -> None:
    """Every method and control, and true labels, judged on people whom nothing has learned."""
    arms = [SUPERVISED, *chosen(ARMS, options.methods)]
    compare(options.out / "synthetic.json", options.seeds, partial(_site, options), arms)


def ablations(options: argparse.Namespace) -> None:
    """Each paper's switches, on the sites and from the source networks of `synthetic`."""
    arms = [arm for variants in chosen(ABLATIONS, options.methods) for arm in variants]
    compare(options.out / "ablations.json", options.seeds, partial(_site, options), arms)


def _site(options: argparse.Namespace, seed: int) -> BenchmarkSite:
    sources = options.sources or options.out
    return synthetic_site(demo_plan(), sources, seed, (*DEMO_IMAGES, *options.set))


def synthetic_site(
    plan: DemoPlan, out: Path, seed: int, overrides: tuple[str, ...]
) -> BenchmarkSite:
    """A plan's site before its two source networks, all below `out`."""
    specs = site_specs(plan, seed)
    source, target = (
        rendered(spec, out / f"site-{letter}-{seed}")
        for spec, letter in zip(specs, "ab", strict=True)
    )
    first, second = (_source_run(plan, source, out, n, seed) for n in (1, 2))
    judged = LabelledCrops.read(target, plan.preprocessing)
    return BenchmarkSite(target, source, ("train",), (first, second), judged, overrides)


def rendered(spec: SiteSpec, root: Path) -> Path:
    """The site of a specification; rendered unless it is there."""
    if not root.exists():
        root.parent.mkdir(parents=True, exist_ok=True)
        render_site(spec, root)
    elif json.loads((root / "synthetic.json").read_text())["spec"] != asdict(spec):
        raise SystemExit(f"{root} is another site: remove it")
    return root


def _source_run(plan: DemoPlan, source: Path, out: Path, number: int, seed: int) -> Run:
    folder = out / f"source-{seed}-{number}"
    spec = source_spec(plan, source, source_seed(number, seed))
    crops = merge_sources([read_market(source, ("train",))])
    work = partial(pretrain, spec, RunContext(CPU), folder)
    weights = "" if plan.weights is None else weights_hash(plan.backbone, plan.weights)
    return made(Wanted(spec, folder, (crops,), Origin(weights=weights)), work).finished()
