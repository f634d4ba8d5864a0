"""A run in words: how it ended, what its figures say, what to do.

No figure of a run says whether the new model is better than the old one; the gate does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapt.clustering.labels.guards import WARN_OUTLIER_SHARE
from adapt.errors import DataError
from adapt.evaluation.metrics import MANY_WITHOUT_MATCH
from adapt.report.curves import COUNTS
from adapt.report.page import Mark, Point
from adapt.runs.info import RESUMABLE_REASONS, RunInfo
from adapt.runs.listing import series
from models.errors import DamagedFileError
from models.job_contract import GateVerdict
from models.wording import plural

SETTLED, UNSETTLED = 0.9, 0.7
"""Agreement of two rounds' clusters from which they have settled, below which they have not."""

FEW_ACROSS = 0.1
"""Below this share of clusters seen by two cameras a model may sort by camera, not by person."""

FEW_OUTLIERS = 0.3
MANY_UNREADABLE = 0.01


def read_gate(path: Path) -> GateVerdict:
    """Read a gate's JSON. Raises DataError when it is missing or cannot be read."""
    try:
        return GateVerdict.read(path)
    except FileNotFoundError:
        raise DataError(f"{path} cannot be read: there is no such file") from None
    except DamagedFileError as error:
        raise DataError(f"{path} is not a verdict of the gate: {error}") from None


def in_words(
    info: RunInfo, status: str, rounds: Sequence[Mapping[str, Any]], gate: GateVerdict | None
) -> tuple[Mark, str, list[Point]]:
    """What to make of a run: one sentence with its mark, and what it rests on.

    status: `Run.status`. rounds: `Run.metrics`.
    """
    mark, lead = _ending(info, status)
    points: list[Point] = []
    if gate is not None:
        points = [*(Point("plain", reason) for reason in gate.reasons), Point(mark, lead)]
        mark, lead = _gate_lead(gate)
    elif info.kind == "adapt" and status == "finished":
        mark = "plain"
        lead += " Run resight gate to see whether the new model is better than the old one."
    if rounds:
        points += _of_labels(info, rounds) if info.kind == "adapt" else []
        points += _of_loss(rounds)
        points += _of_warnings(rounds)
        points += _of_validation(rounds[-1])
    points += _of_crops(info)
    return mark, lead, points


def _gate_lead(gate: GateVerdict) -> tuple[Mark, str]:
    told: dict[str, tuple[Mark, str]] = {
        "promote": ("good", "Promote: the gate finds the new model better than the old one."),
        "hold": ("odd", "Hold: the gate does not find the new model clearly better."),
        "reject": ("bad", "Reject: the gate finds the new model worse, or of no use."),
        "unjudged": ("odd", "Unjudged: the gate gave no verdict on the new model."),
    }
    return told[gate.verdict]


def _ending(info: RunInfo, status: str) -> tuple[Mark, str]:
    planned = info.spec.recipe.schedule.rounds
    total = plural(planned, "round")
    kept = f"the network of round {info.rounds} is kept" if info.rounds else "no network is kept"
    again = f"Resume it with resight {info.kind} --resume"
    if status == "finished":
        done = f"all {info.rounds} rounds" if info.rounds > 1 else "its only round"
        return "good", f"The run finished {done}."
    if status == "stopped":
        return "odd", f"The run was stopped after {info.rounds} of {total}. {again}."
    if status == "running":
        return "odd", f"The run is still going, {info.rounds} of {total} done."
    if status == "crashed":
        return "bad", f"The run's process crashed after {info.rounds} of {total}. {again}."
    more = f" {again}." if info.reason in RESUMABLE_REASONS else ""
    return "bad", (
        f"The run failed in round {info.rounds + 1} of {planned} ({info.reason}); {kept}. "
        f"It says: {info.error}.{more}"
    )


def _of_labels(info: RunInfo, rounds: Sequence[Mapping[str, Any]]) -> list[Point]:
    last, points = rounds[-1], []
    clusters, outliers = _ends(rounds, "clusters"), series(last, "outlier_share")
    if clusters:
        points.append(Point("plain", f"Clusters, each taken for one person: {clusters}."))
    if outliers:
        share = max(outliers.values())
        mark: Mark = "good" if share <= FEW_OUTLIERS else "odd"
        words = "that is few" if mark == "good" else "many, and they teach nothing"
        if share > WARN_OUTLIER_SHARE:
            mark, words = "bad", "most of the site is not learned from"
        points.append(Point(mark, f"{share:.0%} of the crops are in no cluster; {words}."))
    agreement = series(last, "agreement")
    if agreement:
        points.append(_settled(min(agreement.values())))
    across = series(last, "cross_camera_share")
    target = next((d for d in info.data if d.role == "target"), None)
    if across and target is not None and len(target.cameras) > 1:
        points.append(_across(min(across.values())))
    return points


def _settled(agreement: float) -> Point:
    told = f"the clusters of the last two rounds agree to {agreement:.2f} of 1"
    if agreement >= SETTLED:
        return Point("good", f"The clusters have settled: {told}.")
    if agreement >= UNSETTLED:
        return Point("odd", f"The clusters still move: {told}. More rounds may help.")
    return Point("bad", f"The clusters have not settled: {told}. More rounds may help.")


def _across(share: float) -> Point:
    told = f"{share:.0%} of the clusters were seen by two cameras or more"
    if share < FEW_ACROSS:
        return Point(
            "bad", f"Only {told}: the model may sort crops by camera instead of by person."
        )
    return Point("good", f"{told[0].upper()}{told[1:]}.")


def _of_loss(rounds: Sequence[Mapping[str, Any]]) -> list[Point]:
    losses = [row["loss"] for row in rounds if "loss" in row]
    if len(losses) < 2:
        return []
    fell = losses[-1] < losses[0]
    told = f"from {losses[0]:.3g} to {losses[-1]:.3g}"
    words = f"The loss fell {told}." if fell else f"The loss did not fall: {told}."
    return [Point("good" if fell else "odd", words)]


def _of_warnings(rounds: Sequence[Mapping[str, Any]]) -> list[Point]:
    warned = [row["round"] for row in rounds if row["warnings"]]
    if not warned:
        return [Point("good", "No round gave a warning.")]
    told = f"{len(warned)} of {plural(len(rounds), 'round')} gave warnings"
    return [Point("odd", f"{told}, the last of them {warned[-1]}; they are listed below.")]


def _of_validation(last: Mapping[str, Any]) -> list[Point]:
    judged, without = (int(last.get(name, 0)) for name in COUNTS)
    if not without:
        return []
    mark: Mark = "odd" if without > MANY_WITHOUT_MATCH * (judged + without) else "plain"
    told = plural(judged + without, "validation query", "validation queries")
    return [Point(mark, f"No score counts {without} of {told}: no match in another camera.")]


def _of_crops(info: RunInfo) -> list[Point]:
    return [
        Point(
            "odd" if d.unreadable > MANY_UNREADABLE * (d.crops + d.unreadable) else "plain",
            f"{d.unreadable} of {plural(d.crops + d.unreadable, 'crop')} of {d.role} cannot be "
            "read.",
        )
        for d in info.data
        if d.unreadable
    ]


def _ends(rounds: Sequence[Mapping[str, Any]], name: str) -> str:
    first, last = series(rounds[0], name), series(rounds[-1], name)
    parts = [
        f"{first[key]:.0f} in the first round, {value:.0f} in the last" if key in first else ""
        for key, value in last.items()
    ]
    return "; ".join(filter(None, parts))
