"""Parts `real` and `served`: source VIPeR, site PKU-Reid without its labels."""

from __future__ import annotations

import argparse
import shutil
from functools import partial
from pathlib import Path
from typing import cast

from adapt.data.catalog.folders import read_market
from adapt.data.catalog.sources import merge_sources
from adapt.data.catalog.splits import Split
from adapt.evaluation.scoring import LabelledCrops
from adapt.recipes import load_recipe
from adapt.runs.folder import Run
from adapt.runs.info import Origin
from adapt.runs.spec import RunSpec
from adapt.runtime.context import RunContext
from adapt.workflows.export import export_run
from adapt.workflows.pretrain import pretrain
from adapt.workflows.session import weights_hash
from benchmarks.methods.arms import ARMS, chosen
from benchmarks.methods.compare import compare
from benchmarks.methods.runs import CPU, BenchmarkSite, Wanted, adapted, made
from benchmarks.served_ranking import compare_served
from models.image import Preprocessing

BACKBONE = "mobilenet_v2"
SIZE = Preprocessing(height=128, width=64)
SPLITS: tuple[Split, ...] = ("train", "query", "gallery")


def real(options: argparse.Namespace) -> None:
    """Every method and control on all of PKU-Reid."""
    judged = LabelledCrops.read(options.data / "pku_a", SIZE)
    compare(
        options.out / "real.json",
        options.seeds,
        lambda seed: real_site(options, seed, options.data / "pku_a", judged),
        chosen(ARMS, options.methods),
    )


def served(options: argparse.Namespace) -> None:
    """Serve the last seed's MMT bundle, enroll the site over gRPC and compare the rankings."""
    judged = LabelledCrops.read(options.data / "pku_a", SIZE)
    seed = options.seeds[-1]
    site = real_site(options, seed, options.data / "pku_a", judged)
    run = adapted(ARMS["mmt"], site, options.out / f"mmt-{seed}", seed).finished()
    bundle = options.out / "bundle"
    for old in (bundle, options.out / "service"):
        shutil.rmtree(old, ignore_errors=True)
    export_run(run, bundle, name="pku-mmt", version="1")
    print(compare_served(bundle, options.out / "service", judged))


def real_site(
    options: argparse.Namespace, seed: int, target: Path, judged: LabelledCrops
) -> BenchmarkSite:
    """PKU-Reid, or a part of it, before the two source networks of a seed."""
    first, second = (
        source_run(options.data, (options.sources or options.out) / f"source-{n}", n)
        for n in (2 * seed - 1, 2 * seed)
    )
    source = options.data / "viper"
    return BenchmarkSite(target, source, SPLITS, (first, second), judged, tuple(options.set))


def source_run(data: Path, out: Path, seed: int) -> Run:
    """A source network, trained on all 632 identities of VIPeR."""
    spec = RunSpec(
        kind="pretrain",
        recipe=load_recipe("source_small", method="source"),
        recipe_name="source_small",
        seed=seed,
        backbone=BACKBONE,
        preprocessing=SIZE,
        weights=str(data / "weights" / "mobilenetv2_imagenet.pt"),
        sources=(data / "viper",),
        splits=SPLITS,
    )
    crops = merge_sources([read_market(data / "viper", SPLITS)])
    origin = Origin(weights=weights_hash(BACKBONE, cast(str, spec.weights)))
    wanted = Wanted(spec, out, (crops,), origin)
    return made(wanted, partial(pretrain, spec, RunContext(CPU), out)).finished()
