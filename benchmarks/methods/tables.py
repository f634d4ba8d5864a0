"""The tables, in Markdown, of what is there so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from adapt.evaluation.bootstrap import Interval
from benchmarks.graph.tables import head, line
from benchmarks.methods.arms import SUPERVISED
from benchmarks.methods.clusters import LabelQuality
from benchmarks.methods.results import (
    PROTOCOLS,
    UNADAPTED,
    Results,
    differences,
    shares_closed,
    spread,
)


def print_scores(results: Results) -> None:
    """Mean and spread over seeds, and each seed."""
    head(
        "Scores; spread is the standard deviation over seeds.",
        *("model", "protocol", "mAP", "spread", "CMC-1", "mAP of each seed"),
    )
    seeds = list(results.people)
    for model in _models(results):
        ended = results.outcomes.get(model, {})
        for protocol in PROTOCOLS:
            found = results.scores.get((model, protocol), {})
            maps = [scores.mAP for scores in found.values()]
            each = [
                f"{found[s].mAP:.3f}" if s in found else ended[s].ended
                for s in seeds
                if s in found or s in ended
            ]
            cmc1s = [scores.cmc(1) for scores in found.values()]
            figures = (_mean(maps), spread(maps), _mean(cmc1s))
            line(model, protocol, *map(_figure, figures), ", ".join(each))


def print_runs(results: Results) -> None:
    """Minutes, memory and how runs ended."""
    head(
        "Runs; each seed. Resident memory at its peak, all of the process.",
        *("model", "minutes", "peak, GB", "ended"),
    )
    for model, found in results.outcomes.items():
        minutes = ", ".join(f"{outcome.minutes:.1f}" for outcome in found.values())
        peaks = ", ".join(
            "-" if outcome.peak is None else f"{outcome.peak / 1e9:.2f}"
            for outcome in found.values()
        )
        line(model, minutes, peaks, ", ".join(outcome.ended for outcome in found.values()))
    for model, found in results.outcomes.items():
        for seed, outcome in found.items():
            if outcome.collapse:
                print(f"\n{model}, seed {seed}, {outcome.ended}: {outcome.run.info.error}")


def print_labels(results: Results) -> None:
    """Labels of the last round beside the true ones."""
    head(
        "Labels of the last round; each seed, both sets where there are two. Purity: share of the "
        "labelled crops that are of their cluster's most frequent person. Unknown: crops of "
        "unknown people, which purity and index leave out.",
        *("model", "clusters", "outliers", "biggest", "purity", "adjusted Rand index", "unknown"),
    )
    for model, found in results.labels.items():
        line(
            model,
            _each(found, lambda q: f"{q.clusters} of {q.people}"),
            _each(found, lambda q: f"{100 * q.outliers:.0f} %"),
            _each(found, lambda q: str(q.biggest)),
            _each(found, lambda q: f"{q.purity:.2f}"),
            _each(found, lambda q: f"{q.rand:.2f}"),
            _each(found, lambda q: str(q.unknown)),
        )


def _each(
    found: Mapping[int, Sequence[LabelQuality]], figure: Callable[[LabelQuality], str]
) -> str:
    return ", ".join(" / ".join(map(figure, sets)) for sets in found.values())


def print_differences(results: Results) -> None:
    """Methods minus the best training-free control and minus plain clustering."""
    head(
        "Difference of mAP with its 95 % interval of a paired bootstrap over identities.",
        *("model", "minus", "protocol", "mean", "each seed"),
    )
    for each in differences(results):
        cells = (_interval(each.intervals.get(seed)) for seed in results.people)
        line(each.model, each.rival, each.protocol, f"{each.mean:+.3f}", "; ".join(cells))


def _interval(found: Interval | None) -> str:
    """One seed's; "-" where a run of that seed has no network."""
    if found is None:
        return "-"
    return f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def print_closed(results: Results) -> None:
    """Shares of the way from the unadapted model to the supervised ceiling."""
    head(
        "Share of the way from the unadapted to the supervised model, on people left out.",
        *("model", "protocol", "mean", "each split"),
    )
    for model in _models(results, without={UNADAPTED, SUPERVISED.name}):
        for protocol in PROTOCOLS:
            if found := shares_closed(results, model, protocol):
                mean = _figure(_mean(list(found.values())))
                line(model, protocol, mean, ", ".join(_named(found)))


def _models(results: Results, without: Collection[str] = ()) -> list[str]:
    names = dict.fromkeys([name for name, _ in results.scores] + list(results.outcomes))
    return [name for name in names if name not in without]


def _named(shares: Mapping[int, float]) -> list[str]:
    return [f"{split}: {_figure(share)}" for split, share in shares.items()]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
