"""Why METHOD_small is what it is: one value changed at a time, on sites whose labels are ours.

    python -m benchmarks.small_site_settings --data DIR --out runs/settings [--sites 1 2]
        [--methods METHOD ...] [--only NAME ...]

The source networks are those of `benchmarks.methods`, part `real` (VIPeR). The sites are synthetic
and of PKU-Reid's shape: 40 people, 2 cameras, 8 crops of each in each. Nothing of it is read, so
that no label of the real site has a say in the recipe that is judged there.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from adapt.data.catalog.folders import read_market
from adapt.data.decoding.loading import load_crops
from adapt.evaluation.scoring import LabelledCrops, network_embedder
from adapt.runs.folder import Run
from adapt.synthetic import SITE_B
from benchmarks.methods.arms import Arm
from benchmarks.methods.real import SIZE, SPLITS, source_run
from benchmarks.methods.runs import CPU, BenchmarkSite, adapted
from benchmarks.methods.synthetic import rendered

CANDIDATES: dict[str, dict[str, tuple[str, ...]]] = {
    "mmt": {
        "mmt_small": (),
        "k-means": ("clustering.algorithm=kmeans",),
        "average 0.999": ("options.ema=0.999",),
        "lr 1e-4": ("optimizer.lr=1e-4",),
        "10.35 pairs per image": ("clustering.pairs_per_image=10.35",),
        "radius found by itself": ("clustering.radius=auto",),
        "no camera statistics": ("clustering.camera_statistics=false",),
        "neither camera statistics nor centering": (
            "clustering.camera_statistics=false",
            "clustering.camera_centering=false",
        ),
    },
    "nrmt": {
        "nrmt_small": (),
        "nrmt clusters from 8": ("clustering.min_cluster_size=8", "clustering.min_samples=8"),
    },
    "aml": {
        "aml_small": (),
        "aml 15 merged across cameras": ("options.merge_cross_camera=15",),
        "aml 5 pairs per image, 15 across cameras": (
            "clustering.radius=pairs",
            "clustering.pairs_per_image=5",
            "options.merge_cross_camera=15",
        ),
        "aml similarity of the neck feature": ("options.similarity=neck",),
    },
    "hli": {
        "hli_small": (),
        "hli soft triplet loss alone, as in the paper": ("options.lambda_tri=1",),
        "hli two peers": ("options.peers=2",),
        "hli two peers, soft triplet loss alone": ("options.peers=2", "options.lambda_tri=1"),
    },
    "daal": {
        "daal_small": (),
        "daal weights that sum to 1": ("options.normalize=true",),
    },
}
"""What is changed in METHOD_small, by method and name."""


def site(out: Path, number: int) -> Path:
    """A synthetic site of PKU-Reid's shape; the people of its training split."""
    spec = replace(
        SITE_B,
        train_identities=40,
        test_identities=1,
        cameras=2,
        images_per_camera=8,
        seed=100 + number,
    )
    return rendered(spec, out / f"site-{number}")


def scores(run: Run, labelled: LabelledCrops) -> tuple[float, float]:
    """other-camera mAP, plain and camera-centered."""
    table = network_embedder(run.network(), CPU)(labelled.query.images)
    plain, centered = (
        labelled.rank(table, table, protocol="other-camera", camera_centering=center).mAP
        for center in (False, True)
    )
    return plain, centered


def main() -> None:
    """Adapt with every candidate to every site and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sources", type=Path, help="folder of earlier source runs")
    parser.add_argument("--sites", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--methods", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    parser.add_argument("--only", nargs="+", help="names of candidates; default all")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sources = arguments.sources or arguments.out
    wanted = [
        (method, name, changes)
        for method in arguments.methods
        for name, changes in CANDIDATES[method].items()
        if not arguments.only or name in arguments.only
    ]
    if unknown := set(arguments.only or ()) - {name for _, name, _ in wanted}:
        parser.error(f"no candidate {', '.join(sorted(unknown))} of {arguments.methods}")
    first, second = (source_run(arguments.data, sources / f"source-{n}", n) for n in (1, 2))
    found: dict[str, list[tuple[float, float]]] = {"unadapted": []}
    for number in arguments.sites:
        root = site(arguments.out, number)
        crops = load_crops(read_market(root, ("train",)), SIZE)
        labelled = LabelledCrops(crops, crops)
        place = BenchmarkSite(root, arguments.data / "viper", SPLITS, (first, second), labelled)
        found["unadapted"].append(scores(first, labelled))
        for method, name, changes in wanted:
            folder = name.replace(" ", "-").replace(".", "")
            arm = Arm(name, method, folder, changes)
            outcome = adapted(arm, place, arguments.out / f"{folder}-{number}", number)
            pair = (np.nan, np.nan)
            if outcome.collapse:
                print(f"\n{name}, site {number}, {outcome.ended}: {outcome.run.info.error}")
            else:
                pair = scores(outcome.run, labelled)
            found.setdefault(name, []).append(pair)
            print_table(found)


def print_table(found: dict[str, list[tuple[float, float]]]) -> None:
    """Mean over sites, and each site."""
    print("\n| settings | mAP | camera-centered | mAP of each site |\n|---|---|---|---|")
    for name, pairs in found.items():
        plain, centered = np.array(pairs).T
        each = ", ".join(f"{m:.3f}" for m in plain)
        print(f"| {name} | {plain.mean():.3f} | {centered.mean():.3f} | {each} |", flush=True)


if __name__ == "__main__":
    main()
