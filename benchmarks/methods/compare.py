"""Adapt by every arm at every seed's site, score, and print as far as it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapt.data.catalog.folders import read_site
from adapt.data.decoding.decode import DecodedCrops
from adapt.data.decoding.loading import load_crops
from adapt.evaluation.scoring import Embed, LabelledCrops, network_embedder
from adapt.training.extraction import MIN_CAMERA_CROPS, with_statistics_of
from benchmarks.methods.arms import Arm
from benchmarks.methods.clusters import last_labels
from benchmarks.methods.results import CENTERED, PROTOCOLS, UNADAPTED, Results, write
from benchmarks.methods.runs import CPU, BenchmarkSite, adapted
from benchmarks.methods.tables import print_differences, print_labels, print_runs, print_scores
from models.backbones.net import ReIDNet

log = logging.getLogger("resight")

Table = NDArray[np.float32]


def compare(
    file: Path,
    seeds: Sequence[int],
    site_of: Callable[[int], BenchmarkSite],
    arms: Sequence[Arm],
    *,
    more: Callable[[Results], None] = lambda results: None,
) -> Results:
    """Controls and arms, seed by seed; tables after each run, all figures in `file`.

    file: the runs come beside it. site_of: the site of a seed. more: prints what one part alone
    shows.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    results = Results()
    for seed in seeds:
        site = site_of(seed)
        results.people[seed] = site.judged.query.crops.persons
        add_controls(results, site, seed)
        for arm in arms:
            outcome = adapted(arm, site, file.parent / f"{arm.folder}-{seed}", seed)
            results.outcomes.setdefault(arm.name, {})[seed] = outcome
            if labels := last_labels(outcome.run, site.target):
                results.labels.setdefault(arm.name, {})[seed] = labels
            if not outcome.collapse:
                embed = network_embedder(outcome.run.network(), CPU)
                add(results, arm.name, seed, site.judged, *embedded(embed, site.judged))
            print_scores(results)
            print_differences(results)
            more(results)
            print_labels(results)
            print_runs(results)
            write(results, file)
    return results


def add_controls(results: Results, site: BenchmarkSite, seed: int) -> None:
    """Training-free models: the source network, with the site's statistics, and both together.

    Statistics are of the crops that methods adapt to, not of what is judged.
    """
    nets = [run.network() for run in site.inits]
    crops = load_crops(read_site(site.target), site.preprocessing)
    plain = [embedded(network_embedder(net, CPU), site.judged) for net in nets]
    site_wide = with_statistics_of(nets[0], crops.images, CPU)
    by_camera = [embedded_by_camera(net, crops, site.judged) for net in nets]
    for name, tables in (
        (UNADAPTED, plain[0]),
        ("AdaBN", embedded(network_embedder(site_wide, CPU), site.judged)),
        ("AdaBN of each camera", by_camera[0]),
        ("ensemble", _together(plain)),
        ("ensemble, AdaBN of each camera", _together(by_camera)),
    ):
        add(results, name, seed, site.judged, *tables)


def embedded_by_camera(
    net: ReIDNet, crops: DecodedCrops, judged: LabelledCrops
) -> tuple[Table, Table]:
    """Queries and gallery, each camera's under the batch-norm statistics of its own crops.

    What the methods cluster, without their training; see `adapt.training.extraction.extract`.
    """
    codes = crops.crops.camera_codes
    own = {
        name: with_statistics_of(net, crops.images[codes == code], CPU)
        for code, name in enumerate(crops.crops.cameras)
        if np.sum(codes == code) >= MIN_CAMERA_CROPS
    }

    def embed(data: DecodedCrops) -> Table:
        table = np.empty((len(data), net.dimension), np.float32)
        for code, name in enumerate(data.crops.cameras):
            rows = np.flatnonzero(data.crops.camera_codes == code)
            table[rows] = network_embedder(own.get(name, net), CPU)(data.images[rows])
        return table

    query = embed(judged.query)
    return query, query if judged.gallery is judged.query else embed(judged.gallery)


def _together(tables: Sequence[tuple[Table, Table]]) -> tuple[Table, Table]:
    """Sums of both networks' embeddings, of unit length again."""
    query, gallery = (_unit(one + other) for one, other in zip(*tables, strict=True))
    return query, gallery


def add(
    results: Results, model: str, seed: int, judged: LabelledCrops, query: Table, gallery: Table
) -> None:
    """Score a model, plain and camera-centered, in both protocols."""
    for centered in (False, True):
        for protocol in PROTOCOLS:
            scores = judged.rank(query, gallery, protocol=protocol, camera_centering=centered)
            for doubt in scores.doubts() if model == UNADAPTED and not centered else ():
                log.warning("%s: %s", protocol, doubt)
            results.add(model + CENTERED * centered, protocol, seed, scores)


def embedded(embed: Embed, judged: LabelledCrops) -> tuple[Table, Table]:
    """Queries and gallery; crops that are both are embedded once."""
    query = embed(judged.query.images)
    return query, query if judged.gallery is judged.query else embed(judged.gallery.images)


def _unit(table: Table) -> Table:
    unit: Table = table / np.linalg.norm(table, axis=1, keepdims=True)
    return unit
