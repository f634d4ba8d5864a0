"""Backbones side by side on the demo's pair of sites: `python -m benchmarks.backbones`.

Two source networks of each backbone (`source_demo`), from random numbers or `--weights`, then MMT
on the unlabelled site (`mmt_small`, as short as the demo's). Judged on people that adaptation never
saw, across cameras. Each run has a process of its own. What is there is used again.

Minutes are those of `resight adapt --plan`, all backbones in turns: other work on the machine then
slows all of them down alike. The table is printed in Markdown. `--plans` trains source networks for
one step and prints minutes only.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from adapt.config import Schedule
from adapt.evaluation.scoring import network_embedder
from adapt.runs.spec import RunSpec
from adapt.runtime.context import RunContext
from adapt.workflows.plan import plan_adaptation
from benchmarks.alone import alone
from benchmarks.methods.arms import Arm
from benchmarks.methods.compare import embedded
from benchmarks.methods.runs import CPU, BenchmarkSite, adapted
from benchmarks.methods.synthetic import synthetic_site
from cli.demo import DemoPlan, demo_plan
from models.backbones.net import ReIDNet
from models.backbones.trunks import BACKBONES, build_backbone
from models.image import Preprocessing

log = logging.getLogger("resight")

DEFAULT = (
    *("resnet18", "mobilenet_v2"),
    *("osnet_x0_25", "osnet_x0_5", "osnet_x0_75", "osnet_x1_0", "osnet_ain_x1_0"),
)
DEMO_RECIPE = (
    *("schedule.rounds=5", "augment.pad=3", "augment.erase=0.0"),
    *("optimizer.lr=3.5e-4", "options.ema=0.9"),
)
"""What makes `mmt_small` as short as the demo's recipe."""

MMT = Arm("MMT", "mmt", "mmt", DEMO_RECIPE)


@dataclass(frozen=True)
class Figures:
    """Of one backbone at one seed.

    start: file of the weights that its source networks started from, or "". spec: of the
    adaptation. collapse: why it stopped early, or "". peak: most resident memory of its process,
    bytes; None where it is not known.
    """

    backbone: str
    start: str
    seed: int
    unadapted: float
    adapted: float | None
    spec: RunSpec
    collapse: str
    peak: int | None


def measured(
    plan: DemoPlan, out: Path, seed: int, arm: Arm = MMT, overrides: tuple[str, ...] = ()
) -> Figures:
    """Train, adapt and score a plan's backbone at a seed, all below `out`."""
    site = synthetic_site(plan, out / plan.backbone, seed, overrides)
    outcome = adapted(arm, site, out / plan.backbone / f"{arm.folder}-{seed}", seed)
    first = site.inits[0]
    return Figures(
        backbone=plan.backbone,
        start=Path(plan.weights or "").name,
        seed=seed,
        unadapted=across_cameras(first.network(), site),
        adapted=None if outcome.collapse else across_cameras(outcome.run.network(), site),
        spec=outcome.run.info.spec,
        collapse=outcome.collapse,
        peak=outcome.peak,
    )


def untrained(plan: DemoPlan, out: Path, seed: int, arm: Arm = MMT) -> RunSpec:
    """An adaptation from source networks of one step, to be timed."""
    schedule = Schedule(rounds=1, iterations=1)
    plan = replace(plan, source_recipe=plan.source_recipe.model_copy(update={"schedule": schedule}))
    site = synthetic_site(plan, out / f"{plan.backbone}-untrained", seed, ())
    recipe, name = arm.recipe(())
    inits = tuple(run.path for run in site.inits)
    common = {"recipe": recipe, "recipe_name": name, "seed": seed}
    return RunSpec(kind="adapt", inits=inits, target=site.target, **common)


def minutes_in_turns(specs: Sequence[RunSpec], turns: int, out: Path) -> list[list[float]]:
    """Minutes that each adaptation takes by its plan: a list for each turn.

    out: nothing of a name is written there.
    """
    return [[alone(_planned_minutes, spec, out / "plan") for spec in specs] for _ in range(turns)]


def _planned_minutes(spec: RunSpec, unused: Path) -> float:
    return plan_adaptation(spec, RunContext(CPU), unused).total_seconds / 60


def across_cameras(net: ReIDNet, site: BenchmarkSite) -> float:
    """mAP, the query's camera left out."""
    vectors = embedded(network_embedder(net, CPU), site.judged)
    scores = site.judged.rank(*vectors, protocol="other-camera")
    for doubt in scores.doubts():
        log.warning("%s", doubt)
    return scores.mAP


def cost(backbone: str, size: Preprocessing) -> tuple[float, float]:
    """Millions of weights of a trunk, and of multiplications for one image."""
    with torch.device("meta"):  # shapes only
        trunk, _ = build_backbone(backbone)
        with FlopCounterMode(display=False) as counter:
            trunk.eval()(torch.zeros(1, 3, size.height, size.width))
    weights = sum(parameter.numel() for parameter in trunk.parameters())
    return weights / 1e6, counter.get_total_flops() / 2e6


def table(
    found: Sequence[Figures], size: Preprocessing, turns: Sequence[Sequence[float]]
) -> Iterator[str]:
    """Markdown: a row for each backbone, means over its seeds with the smallest and largest.

    turns: minutes of each backbone in the order of `found`; medians are shown, beside the first's
    in the same turn, too.
    """
    yield (
        "| backbone | start | weights, M | multiplications, M | mAP before | mAP after "
        "| MMT, min | relative | memory, MB |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for i, name in enumerate(dict.fromkeys(each.backbone for each in found)):
        rows = [each for each in found if each.backbone == name]
        weights, multiplications = cost(name, size)
        peaks = [row.peak / 1e6 for row in rows if row.peak is not None]
        stopped = [f"seed {row.seed}: {row.collapse}" for row in rows if row.collapse]
        after = spread([row.adapted for row in rows if row.adapted is not None], 3)
        cells = (
            *(f"`{name}`", f"`{rows[0].start}`" if rows[0].start else "random numbers"),
            *(f"{weights:.2f}", f"{multiplications:.0f}"),
            spread([row.unadapted for row in rows], 3),
            "; ".join([each for each in (after, *stopped) if each]),
            middle([turn[i] for turn in turns], 1),
            middle([turn[i] / turn[0] for turn in turns], 2),
            spread(peaks, 0),
        )
        yield f"| {' | '.join(cells)} |"


def minutes_table(
    names: Sequence[str], size: Preprocessing, turns: Sequence[Sequence[float]]
) -> Iterator[str]:
    """Markdown: what an adaptation of each backbone takes, medians of the turns."""
    yield "| backbone | weights, M | multiplications, M | MMT, min | relative |"
    yield "|---|---|---|---|---|"
    for i, name in enumerate(names):
        weights, multiplications = cost(name, size)
        minutes = middle([turn[i] for turn in turns], 1)
        relative = middle([turn[i] / turn[0] for turn in turns], 2)
        yield f"| `{name}` | {weights:.2f} | {multiplications:.0f} | {minutes} | {relative} |"


def spread(values: Sequence[float], digits: int) -> str:
    """Mean (smallest - largest); of one value itself, of none nothing."""
    if not values:
        return ""
    mean = f"{sum(values) / len(values):.{digits}f}"
    return (
        mean
        if len(values) == 1
        else f"{mean} ({min(values):.{digits}f} - {max(values):.{digits}f})"
    )


def middle(values: Sequence[float], digits: int) -> str:
    """Median (smallest - largest)."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} - {max(values):.{digits}f})"


def main() -> None:
    """Measure the backbones asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.backbones",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--backbones", nargs="+", choices=BACKBONES, default=list(DEFAULT), metavar="NAME")
    add("--seeds", nargs="+", type=int, default=[1])
    add("--height", type=int, default=64, help="of the networks' images, in pixels")
    add("--width", type=int, default=32)
    add("--turns", type=int, default=3, help="how often each plan is timed")
    add("--plans", action="store_true", help="minutes only")
    add("--weights", action="append", default=[], metavar="NAME=FILE", help="a backbone's start")
    add("--out", type=Path, default=Path("runs/backbones"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    size = Preprocessing(height=options.height, width=options.width)
    start = dict(each.split("=", 1) for each in options.weights)
    plans = [
        replace(demo_plan(), backbone=name, preprocessing=size, weights=start.get(name))
        for name in options.backbones
    ]
    if options.plans:
        specs = [untrained(plan, options.out, options.seeds[0]) for plan in plans]
        turns = minutes_in_turns(specs, options.turns, options.out)
        print("\n".join(minutes_table(options.backbones, size, turns)))
        return
    found = [measured(plan, options.out, seed) for seed in options.seeds for plan in plans]
    specs = [each.spec for each in found if each.seed == options.seeds[0]]
    turns = minutes_in_turns(specs, options.turns, options.out)
    print("\n".join(table(found, size, turns)))


if __name__ == "__main__":
    main()
