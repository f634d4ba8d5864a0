"""The main job on real crops: source VIPeR, site PKU-Reid without its labels, MMT.

    python -m benchmarks.real_adaptation --data DIR --out runs/real [--seeds 1 2 3]

Trains two source networks and adapts them for each seed (runs that are there already are used
again), scores every model and control on the site's identities under both protocols, serves the
adapted bundle, enrolls the site over gRPC and compares the served ranking with the evaluated one.
Prints the table of docs/results.md. The site's labels are read only after training, to score.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapt.config import Recipe
from adapt.data.folders import read_market, read_site
from adapt.data.loading import load_crops
from adapt.data.sources import merge_sources
from adapt.data.splits import Split
from adapt.device import pick_device
from adapt.evaluate.bootstrap import paired_bootstrap
from adapt.evaluate.metrics import ProtocolName, RetrievalScores
from adapt.export import export_run
from adapt.features import extract, with_statistics_of
from adapt.recipes import load_recipe
from adapt.runs import Run, WeightsInfo
from adapt.scoring import LabelledCrops, network_embedder
from adapt.training import Machine, adapt, pretrain
from adapt.types import CropSet
from benchmarks.served_ranking import compare_served
from models.image import Preprocessing

BACKBONE = "mobilenet_v2"
SIZE = Preprocessing(height=128, width=64)
CPU = pick_device("cpu")
PROTOCOLS: tuple[ProtocolName, ...] = ("other-camera", "market")
Features = NDArray[np.float32]


def earlier(out: Path, recipe: Recipe, seed: int, crops: CropSet, **start: object) -> Run:
    """An earlier run, if it finished and was the same; else the table would lie.

    crops: what it has to have learnt from, as listed. start: other fields of its `RunInfo`.
    """
    info = Run.open(out).info
    wanted = {
        "state": "finished",
        "recipe": recipe.model_dump(mode="json"),
        "seed": seed,
        "backbone": BACKBONE,
        "preprocessing": SIZE,
        "camera_pattern": None,
        **start,
    }
    other = [name for name, value in wanted.items() if getattr(info, name) != value]
    if info.data[0].fingerprint != load_crops(crops, SIZE).crops.fingerprint:
        other.append("data")
    if other:
        raise SystemExit(f"{out} is of another {', '.join(other)}: remove it")
    return Run.open(out)


def source_run(data: Path, out: Path, seed: int) -> Run:
    """A source network, trained on all 632 identities of VIPeR."""
    recipe = load_recipe("source_small", method="source")
    splits: tuple[Split, ...] = ("train", "query", "gallery")
    weights = str(data / "weights" / "mobilenetv2_imagenet.pt")
    if (out / "run.json").exists():
        crops = merge_sources([read_market(data / "viper", splits)])
        return earlier(out, recipe, seed, crops, weights=WeightsInfo.of(BACKBONE, weights))
    return pretrain(
        [data / "viper"],
        splits=splits,
        backbone=BACKBONE,
        weights=weights,
        preprocessing=SIZE,
        recipe=recipe,
        recipe_name="source_small",
        out=out,
        machine=Machine(CPU, seed),
    )


def site_run(data: Path, out: Path, inits: list[Run], seed: int) -> Run:
    """MMT on PKU-Reid's crops; nothing of their identities is read."""
    recipe = load_recipe("mmt_small", method="mmt")
    if (out / "run.json").exists():
        started = tuple(init.network_hash() for init in inits)
        return earlier(out, recipe, seed, read_site(data / "pku_a"), init=started)
    return adapt(
        data / "pku_a",
        camera_pattern=None,
        inits=[run.path for run in inits],
        recipe=recipe,
        recipe_name="mmt_small",
        out=out,
        machine=Machine(CPU, seed),
    )


def features_of(labelled: LabelledCrops, inits: list[Run], adapted: Run) -> dict[str, Features]:
    """Embeddings of every crop of the site under each model and training-free control."""
    images = labelled.query.images
    nets = [run.network() for run in inits]
    tables = extract(nets, images, device=CPU)
    (adabn,) = extract([with_statistics_of(nets[0], images, CPU)], images, device=CPU)
    ensemble = tables[0] + tables[1]
    return {
        "unadapted": tables[0],
        "AdaBN": adabn,
        "ensemble of both source networks": ensemble / np.linalg.norm(ensemble, axis=1)[:, None],
        "MMT": network_embedder(adapted.network(), CPU)(images),
    }


def score_all(
    labelled: LabelledCrops, tables: Mapping[str, Features]
) -> dict[tuple[str, str], RetrievalScores]:
    """Scores by (model, protocol), each model plain and camera-centred."""
    return {
        (name + (", camera-centred" if centred else ""), protocol): labelled.rank(
            table, table, protocol=protocol, camera_centering=centred
        )
        for name, table in tables.items()
        for centred in (False, True)
        for protocol in PROTOCOLS
    }


def print_table(all_scores: list[dict[tuple[str, str], RetrievalScores]]) -> None:
    """Mean over seeds, and each seed."""
    print("\n| model | protocol | mAP | CMC-1 | mAP of each seed |\n|---|---|---|---|---|")
    for name, protocol in all_scores[0]:
        found = [scores[name, protocol] for scores in all_scores]
        maps = [s.mAP for s in found]
        each = ", ".join(f"{m:.3f}" for m in maps)
        cmc1 = np.mean([s.cmc(1) for s in found])
        print(f"| {name} | {protocol} | {np.mean(maps):.3f} | {cmc1:.3f} | {each} |")


def print_differences(
    labelled: LabelledCrops, all_scores: list[dict[tuple[str, str], RetrievalScores]]
) -> None:
    """MMT minus each control, with the interval over identities, per seed."""
    print(
        "\n| MMT minus | protocol | difference of mAP and 95 % interval, each seed |\n|---|---|---|"
    )
    for control in ("unadapted", "unadapted, camera-centred"):
        for protocol in PROTOCOLS:
            cells = []
            for scores in all_scores:
                before, after = scores[control, protocol], scores["MMT", protocol]
                gain = paired_bootstrap(
                    before,
                    after,
                    labelled.query.crops.persons,
                    rng=np.random.default_rng(0),
                )
                cells.append(f"{gain.difference:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]")
            print(f"| {control} | {protocol} | {'; '.join(cells)} |")


def main() -> None:
    """Run everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    labelled = LabelledCrops.read(arguments.data / "pku_a", SIZE)
    all_scores, last = [], None
    for seed in arguments.seeds:
        inits = [
            source_run(arguments.data, arguments.out / f"source-{n}", n)
            for n in (2 * seed - 1, 2 * seed)
        ]
        last = site_run(arguments.data, arguments.out / f"mmt-{seed}", inits, seed)
        all_scores.append(score_all(labelled, features_of(labelled, inits, last)))
        print_table(all_scores)
    print_differences(labelled, all_scores)
    if last is not None:
        bundle = arguments.out / "bundle"
        for old in (bundle, arguments.out / "service"):
            shutil.rmtree(old, ignore_errors=True)
        export_run(last, bundle, name="pku-mmt", version="1")
        print(compare_served(bundle, arguments.out / "service", labelled))


if __name__ == "__main__":
    main()
