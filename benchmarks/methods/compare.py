"""Adapt by every arm at every seed's site, score, and print as far as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapt.data.folders import read_site
from adapt.data.loading import load_crops
from adapt.features import with_statistics_of
from adapt.scoring import Embed, LabelledCrops, network_embedder
from benchmarks.methods.arms import Arm
from benchmarks.methods.clusters import last_labels
from benchmarks.methods.results import CENTRED, PROTOCOLS, UNADAPTED, Results, write
from benchmarks.methods.runs import CPU, Site, adapted
from benchmarks.methods.tables import print_differences, print_labels, print_runs, print_scores

Table = NDArray[np.float32]


def compare(
    file: Path,
    seeds: Sequence[int],
    site_of: Callable[[int], Site],
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


def add_controls(results: Results, site: Site, seed: int) -> None:
    """Training-free models: the source network, with the site's statistics, and both together."""
    first, second = (run.network() for run in site.inits)
    crops = load_crops(read_site(site.target), site.preprocessing)
    tables = [embedded(network_embedder(net, CPU), site.judged) for net in (first, second)]
    adabn = embedded(
        network_embedder(with_statistics_of(first, crops.images, CPU), CPU), site.judged
    )
    both = [_unit(one + other) for one, other in zip(*tables, strict=True)]
    add(results, UNADAPTED, seed, site.judged, *tables[0])
    add(results, "AdaBN", seed, site.judged, *adabn)
    add(results, "ensemble of both source networks", seed, site.judged, *both)


def add(
    results: Results, model: str, seed: int, judged: LabelledCrops, query: Table, gallery: Table
) -> None:
    """Score a model, plain and camera-centred, in both protocols."""
    for centred in (False, True):
        for protocol in PROTOCOLS:
            scores = judged.rank(query, gallery, protocol=protocol, camera_centering=centred)
            results.add(model + CENTRED * centred, protocol, seed, scores)


def embedded(embed: Embed, judged: LabelledCrops) -> tuple[Table, Table]:
    """Queries and gallery; crops that are both are embedded once."""
    query = embed(judged.query.images)
    return query, query if judged.gallery is judged.query else embed(judged.gallery.images)


def _unit(table: Table) -> Table:
    unit: Table = table / np.linalg.norm(table, axis=1, keepdims=True)
    return unit
