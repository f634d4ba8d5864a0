"""What was found, and the arithmetic of the tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapt.evaluation.bootstrap import Interval, paired_bootstrap
from adapt.evaluation.metrics import RetrievalScores
from adapt.evaluation.protocols import ProtocolName
from benchmarks.methods.arms import PLAIN, SUPERVISED
from benchmarks.methods.clusters import LabelQuality
from benchmarks.methods.runs import MadeRun
from models.files import write_atomically
from models.json_text import json_text

PROTOCOLS: tuple[ProtocolName, ...] = ("other-camera", "market")
UNADAPTED = "unadapted"
CENTERED = ", camera-centered"


@dataclass
class Results:
    """Figures by model, protocol and seed, as far as they are there.

    people: by seed, the identity of each query. labels: by model and seed, of each set of labels
    of the last round.
    """

    people: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    scores: dict[tuple[str, ProtocolName], dict[int, RetrievalScores]] = field(default_factory=dict)
    outcomes: dict[str, dict[int, MadeRun]] = field(default_factory=dict)
    labels: dict[str, dict[int, tuple[LabelQuality, ...]]] = field(default_factory=dict)

    def add(self, model: str, protocol: ProtocolName, seed: int, scores: RetrievalScores) -> None:
        """Put scores in their place."""
        self.scores.setdefault((model, protocol), {})[seed] = scores

    @property
    def methods(self) -> list[str]:
        """What was adapted without labels, beside plain clustering."""
        return [name for name in self.outcomes if name not in (PLAIN.name, SUPERVISED.name)]

    @property
    def controls(self) -> list[str]:
        """What needs no training."""
        trained = {name + suffix for name in self.outcomes for suffix in ("", CENTERED)}
        return list(dict.fromkeys(name for name, _ in self.scores if name not in trained))

    def mean(self, model: str, protocol: ProtocolName) -> float:
        """Mean mAP over the seeds that are there."""
        return float(np.mean([s.mAP for s in self.scores[model, protocol].values()]))


def spread(values: Sequence[float]) -> float:
    """Standard deviation over seeds, of a sample (n - 1); nan of one seed."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def best_control(results: Results, protocol: ProtocolName) -> str:
    """The training-free control of the highest mean mAP: the hardest to beat, by the labels."""
    return max(results.controls, key=lambda name: results.mean(name, protocol))


@dataclass(frozen=True)
class Difference:
    """A method's mAP minus a rival's: intervals over identities, by seed."""

    model: str
    rival: str
    protocol: ProtocolName
    intervals: dict[int, Interval]

    @cached_property
    def mean(self) -> float:
        """Over seeds."""
        return float(np.mean([i.difference for i in self.intervals.values()]))


def differences(results: Results) -> Iterator[Difference]:
    """Each method minus the best training-free control, and minus plain clustering."""
    for protocol in PROTOCOLS:
        rivals = [best_control(results, protocol)]
        rivals += [PLAIN.name] if (PLAIN.name, protocol) in results.scores else []
        for model in results.methods:
            for rival in rivals:
                found = _intervals(results, model, rival, protocol)
                if found:
                    yield Difference(model, rival, protocol, found)


def _intervals(
    results: Results, model: str, rival: str, protocol: ProtocolName
) -> dict[int, Interval]:
    ours, theirs = (results.scores.get((name, protocol), {}) for name in (model, rival))
    return {
        seed: paired_bootstrap(
            theirs[seed], ours[seed], results.people[seed], rng=np.random.default_rng(0)
        )
        for seed in ours
        if seed in theirs
    }


def share_closed(figure: float, unadapted: float, ceiling: float) -> float:
    """How far `figure` is on the way from `unadapted` (0) to `ceiling` (1); nan without a way."""
    way = ceiling - unadapted
    return (figure - unadapted) / way if way > 0 else float("nan")


def shares_closed(results: Results, model: str, protocol: ProtocolName) -> dict[int, float]:
    """By split, where the split's ceiling is there."""
    ceilings = results.scores.get((SUPERVISED.name, protocol), {})
    unadapted = results.scores[UNADAPTED, protocol]
    return {
        seed: share_closed(scores.mAP, unadapted[seed].mAP, ceilings[seed].mAP)
        for seed, scores in results.scores.get((model, protocol), {}).items()
        if seed in ceilings
    }


def write(results: Results, file: Path) -> None:
    """Keep every figure of the tables."""
    content: dict[str, list[dict[str, Any]]] = {
        "scores": [
            {"model": model, "seed": seed, **s.to_dict()}
            for (model, protocol), found in results.scores.items()
            for seed, s in found.items()
        ],
        "runs": [
            {
                "model": model,
                "seed": seed,
                "ended": outcome.ended,
                "error": outcome.run.info.error,
                "minutes": outcome.minutes,
                "peak_bytes": outcome.peak,
            }
            for model, found in results.outcomes.items()
            for seed, outcome in found.items()
        ],
        "differences": [
            {
                "model": each.model,
                "minus": each.rival,
                "protocol": each.protocol,
                "seed": seed,
                "difference": interval.difference,
                "low": interval.low,
                "high": interval.high,
            }
            for each in differences(results)
            for seed, interval in each.intervals.items()
        ],
        "labels": [
            {"model": model, "seed": seed, "set": number, **asdict(quality)}
            for model, found in results.labels.items()
            for seed, sets in found.items()
            for number, quality in enumerate(sets, start=1)
        ],
        "controls": [{"model": name} for name in results.controls],
        "closed": [
            {
                "model": model,
                "protocol": protocol,
                "split": seed,
                "share": share,
            }
            for (model, protocol) in results.scores
            for seed, share in shares_closed(results, model, protocol).items()
        ],
    }
    write_atomically(file, json_text(content, indent=1).encode())
