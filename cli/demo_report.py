"""What a demo leaves to read: summary.json, report.html, some lines on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cli.common import plural, tell
from models.json_text import json_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from adapt.evaluation.metrics import RetrievalScores
    from adapt.evaluation.scoring import LabelledCrops
    from adapt.runs.folder import Run

QUERIES = 12
"""Queries whose rank lists are shown."""

SHEET_PEOPLE, SHEET_CROPS = 6, 2
"""People on a contact sheet, and crops of each in each camera."""


@dataclass(frozen=True)
class Served:
    """What the searches over gRPC gave.

    same_ranking: searches whose first `answers` answers are those of the evaluation.
    first_right: share of the searches whose person is in another camera, in which it comes first;
    0 without any. without_match: the other searches.
    """

    enrolled: int
    searches: int
    same_ranking: int
    answers: int
    first_right: float
    without_match: int = 0


@dataclass(frozen=True)
class DemoResult:
    """Everything a demo found.

    scores: model -> scores on people that adaptation never saw. embeddings: model -> (query,
    gallery) of `labelled`. seconds: by stage. sites: what each is -> its folder.
    """

    seed: int
    scores: Mapping[str, RetrievalScores]
    served: Served
    seconds: Mapping[str, float]
    labelled: LabelledCrops
    embeddings: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
    source: Run
    adapted: Run
    sites: Mapping[str, Path]


def write_summary(out: Path, result: DemoResult) -> None:
    """Write summary.json."""
    served, seconds = result.served, result.seconds
    summary = {
        **{name: s.to_dict() for name, s in result.scores.items()},
        "served": {
            "enrolled": served.enrolled,
            "searches": served.searches,
            "searches_without_match": served.without_match,
            "same_ranking_as_evaluate": served.same_ranking,
            "first_answer_right": served.first_right,
        },
        "seconds": {
            **{stage: round(s, 2) for stage, s in seconds.items()},
            "total": round(sum(seconds.values()), 2),
        },
        "seed": result.seed,
    }
    (out / "summary.json").write_text(json_text(summary, indent=2) + "\n")


def write_report(out: Path, result: DemoResult) -> None:
    """Write report.html, and the contact sheet of each site as a file beside it."""
    from adapt.data.catalog.folders import read_market
    from adapt.report.curves import round_charts
    from adapt.report.page import (
        Charts,
        Facts,
        Page,
        Picture,
        Pictures,
        Rankings,
        Section,
        Table,
        render,
    )
    from adapt.report.pictures import jpeg_uri, site_sheet
    from adapt.report.rankings import compare_rankings

    sheets = []
    for title, root in result.sites.items():
        sheet = site_sheet(read_market(root, ("train",)), people=SHEET_PEOPLE, each=SHEET_CROPS)
        (out / f"{root.name}.jpg").write_bytes(sheet)
        sheets.append(Picture(jpeg_uri(sheet), title))
    before, after = result.scores["unadapted"], result.scores["adapted"]
    head = ("model", "mAP", "CMC-1", "CMC-5", "CMC-10")
    rows = [
        (name, f"{s.mAP:.3f}", *(f"{s.cmc(k):.3f}" for k in (1, 5, 10)))
        for name, s in result.scores.items()
    ]
    rankings = compare_rankings(
        result.labelled, result.embeddings, queries=QUERIES, answers=result.served.answers
    )
    page = Page(
        "resight demo",
        f"Adapted to a new site without labels: mAP {before.mAP:.3f} before, {after.mAP:.3f} "
        "after, on people that adaptation never saw.",
        [
            Section("Scores", [Table(head, rows)], after.in_words().capitalize() + "."),
            Section("Over the rounds", [Charts(round_charts(result.adapted.metrics()))]),
            Section("Who was found", [Rankings(rankings)], _FOUND_NOTE),
            Section("What the cameras see", [Pictures(sheets)], _SHEETS_NOTE),
            Section("How this was made", [Facts(_facts(result))]),
        ],
    )
    (out / "report.html").write_bytes(render(page))


_FOUND_NOTE = (
    "Queries spread evenly over the set, not picked. Green frame and ✓: the same person; red frame "
    "and ✗: somebody else. Below each crop its camera and cosine similarity. Crops of the query's "
    "person by the query's own camera are set aside; a query of which that leaves none says so."
)
_SHEETS_NOTE = "A row for each person, cameras from left to right; people of the training sets."


def _facts(result: DemoResult) -> dict[str, str]:
    served, info = result.served, result.adapted.info
    size = info.preprocessing
    return {
        "searches over gRPC": f"{served.same_ranking} of {served.searches} gave the same "
        f"{served.answers} answers as the evaluation; {served.first_right:.0%} found the person "
        f"first{_without_match(served)}",
        "enrolled": plural(served.enrolled, "crop"),
        "backbone": f"{info.backbone}, {size.height}x{size.width}",
        "recipes": f"{result.source.info.spec.recipe_name}, {info.spec.recipe_name}",
        "labels in the last round": str(result.adapted.metrics()[-1]["labels"]),
        "seed": str(result.seed),
        "seconds": ", ".join(f"{name} {value:.0f}" for name, value in result.seconds.items()),
        "versions": ", ".join(f"{k} {v}" for k, v in info.versions.items()),
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _without_match(served: Served) -> str:
    return f" ({served.without_match} have no match)" if served.without_match else ""


def print_result(out: Path, result: DemoResult) -> None:
    """Print the result."""
    served = result.served
    typer.echo("people of site B never seen in adaptation      mAP   CMC-1")
    for name, s in result.scores.items():
        typer.echo(f"  {name:<42} {s.mAP:.3f}   {s.cmc(1):.3f}")
    typer.echo(
        f"served: {plural(served.enrolled, 'crop')} enrolled over gRPC, {served.same_ranking} of "
        f"{served.searches} searches rank as evaluated"
    )
    tell(f"{sum(result.seconds.values()):.0f} s in all; open:")
    typer.echo(out / "report.html")
