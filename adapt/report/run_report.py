"""The page of a run folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapt.data.decoding.decode import DecodedCrops
from adapt.report.clusters import camera_rows, cameras_per_cluster, choose_clusters, draw_sheet
from adapt.report.curves import RoundRows, label_charts, round_charts
from adapt.report.maps import choose_rows, draw_map, lay_out, legend
from adapt.report.material import Material
from adapt.report.page import (
    Block,
    Charts,
    Facts,
    Note,
    Page,
    Picture,
    Pictures,
    Rankings,
    Section,
    Table,
)
from adapt.report.pictures import jpeg_uri, png_uri
from adapt.report.rankings import compare_answers
from adapt.report.verdict import in_words
from adapt.runs.folder import Run
from adapt.runs.info import DataInfo, RunInfo
from adapt.runs.listing import flatten
from adapt.types import OUTLIER
from models.job_contract import GateVerdict
from models.wording import plural

HEADINGS = (
    "Over the rounds",
    "Clusters of the last round",
    "Who is found elsewhere",
    "Map of the site",
    "Warnings",
    "Crops",
    "Where the time went",
    "Settings",
)
_OF_A_SITE = HEADINGS[1:4]

QUERIES, ANSWERS = 6, 8
CLUSTERS_EACH = 3
"""Clusters of each kind that are shown."""

MAP_CROPS = 2000
MIN_MAP_CROPS = 10
SEED = 0
"""Of what is drawn to be shown: crops of the map, queries, crops of large clusters."""

NAMED_FILES = 20
"""Files that were left out are named up to this number."""


def run_page(run: Run, material: Material, gate: GateVerdict | None) -> Page:
    """Tell what a run was, did and left. Raises RunError when its figures are damaged."""
    info, rounds = run.info, run.metrics()
    mark, lead, points = in_words(info, run.status(), rounds, gate)
    parts = {
        "Over the rounds": (_curves(rounds), ""),
        "Clusters of the last round": (_clusters(material), _CLUSTERS_NOTE),
        "Who is found elsewhere": (_rankings(material), _RANKINGS_NOTE),
        "Map of the site": (_maps(material), _MAPS_NOTE),
        "Warnings": (_warnings(rounds), ""),
        "Crops": (_crops(info.data), ""),
        "Where the time went": ([_times(info, rounds)], ""),
        "Settings": ([_settings(info)], ""),
    }
    shown = [t for t in HEADINGS if info.kind == "adapt" or t not in _OF_A_SITE]
    sections = [Section(title, *parts[title]) for title in shown]
    what = f"adapted by {info.method}" if info.kind == "adapt" else "pre-trained"
    title = f"{run.path.resolve().name}: {info.backbone} {what}"
    return Page(title, lead, sections, mark, points)


_CLUSTERS_NOTE = (
    "A cluster is a group of crops that the run took for one person. Look for groups that hold "
    "several people, and for one person in several groups. Most mixed are the groups whose crops "
    "the new model finds least alike. Crops are ordered by camera."
)
_RANKINGS_NOTE = (
    "Queries are drawn at random from each camera in turn, not picked. A row shows the crops of "
    "other cameras (of a site with one camera: all other crops) that a model finds most alike, "
    "best first, with their camera and cosine similarity. Nobody knows who is right: look. "
    "Similarities of two models are on different scales."
)
_MAPS_NOTE = (
    "Each point is a crop; crops that lie together are alike to the model. Good maps show many "
    "small islands, each of several cameras and one cluster. Islands of one camera each mean that "
    "the model sorts by camera. Distances between islands mean nothing. Made by PCA and t-SNE."
)


def _curves(rounds: RoundRows) -> list[Block]:
    if not rounds:
        return [Note("No round was finished.", missing=True)]
    return [Charts(round_charts(rounds))]


def _clusters(material: Material) -> list[Block]:
    if not material.labels:
        return [_missing(material, "labels")]
    labels = material.labels[0]
    blocks: list[Block] = []
    if len(material.labels) > 1:
        blocks.append(Note(f"The first of {len(material.labels)} sets of labels."))
    cameras = None if material.data is None else material.data.crops.camera_codes
    across = None if cameras is None else cameras_per_cluster(labels, cameras)
    blocks.append(Charts(label_charts(labels, across)))
    if material.data is None:
        return [*blocks, _missing(material, "crops")]
    head = ("camera", "crops", "in clusters", "in no cluster", "clusters it is in")
    rows = [
        (r.name, str(r.crops), str(r.clustered), _percent(r.crops - r.clustered, r.crops),
         str(r.clusters))
        for r in camera_rows(labels, material.data.crops.camera_codes, material.data.crops.cameras)
    ]  # fmt: skip
    return [*blocks, Table(head, rows), *_sheets(material.data, labels, material)]


def _sheets(data: DecodedCrops, labels: NDArray[np.int64], material: Material) -> list[Block]:
    features = material.embeddings.get("after")
    pictures = []
    for kind, ids in choose_clusters(labels, features, CLUSTERS_EACH).items():
        for place, cluster in enumerate(ids, start=1):
            sheet = draw_sheet(data, np.flatnonzero(labels == cluster), SEED)
            title = f"{kind}, {place}: cluster {cluster}"
            pictures.append(Picture(jpeg_uri(sheet.image), sheet.caption, title))
    outside = np.flatnonzero(labels == OUTLIER)
    if len(outside):
        sheet = draw_sheet(data, outside, SEED)
        pictures.append(Picture(jpeg_uri(sheet.image), sheet.caption, "in no cluster"))
    return [Pictures(pictures, "rows")]


def _rankings(material: Material) -> list[Block]:
    if material.data is None or not material.embeddings:
        return [_missing(material, "crops", "models")]
    found = compare_answers(
        material.data, material.embeddings, queries=QUERIES, answers=ANSWERS, seed=SEED
    )
    return [*map(Note, material.notes), Rankings(found)]


def _maps(material: Material) -> list[Block]:
    data = material.data
    if data is None or not material.embeddings:
        return [_missing(material, "crops", "models")]
    if len(data) < MIN_MAP_CROPS:
        told = f"A map needs at least {MIN_MAP_CROPS} crops, this site has {len(data)}."
        return [Note(told, missing=True)]
    rows = choose_rows(len(data), MAP_CROPS, SEED)
    codes = {"by camera": (data.crops.camera_codes[rows], data.crops.cameras, "other cameras")}
    if material.labels:
        labels = material.labels[0]
        names = [f"cluster {i}" for i in range(int(labels.max(initial=OUTLIER)) + 1)]
        codes["by cluster"] = (labels[rows], tuple(names), "smaller ones and no cluster")
    legends = {how: legend(how, *what) for how, what in codes.items()}
    planes = {model: lay_out(each[rows], SEED) for model, each in material.embeddings.items()}
    pictures = [
        Picture(png_uri(draw_map(places, codes[how][0], key)), "", f"{model}, colored {how}")
        for how, key in legends.items()
        for model, places in planes.items()
    ]
    total = plural(len(data), "crop")
    some = f"{len(rows)} of {total}, drawn at random" if len(rows) < len(data) else f"All {total}"
    told = f"{some}; the same in each map."
    return [*map(Note, (told, *material.notes)), Pictures(pictures, "pairs", [*legends.values()])]


def _missing(material: Material, *parts: str) -> Note:
    why = next((material.problems[p] for p in parts if p in material.problems), "")
    return Note(f"Not shown: {why}.".replace("..", "."), missing=True)


def _warnings(rounds: RoundRows) -> list[Block]:
    rows = [(str(r["round"]), str(text)) for r in rounds for text in r["warnings"]]
    return [Table(("round", "warning"), rows)] if rows else [Note("None.")]


def _crops(data: Sequence[DataInfo]) -> list[Block]:
    head = ("used as", "crops", "cameras", "thinned out", "unreadable", "not listed",
            "other files", "fingerprint", "folder or list")  # fmt: skip
    rows = [
        (d.role, str(d.crops), str(len(d.cameras)), str(d.thinned), str(d.unreadable),
         str(d.unlisted), str(d.not_images), d.fingerprint[:12],
         f"{d.root}/{d.manifest}" if d.manifest else d.root)
        for d in data
    ]  # fmt: skip
    left_out = [(key, reason) for d in data for key, reason in d.dropped.items()]
    blocks: list[Block] = [Table(head, rows)]
    if left_out:
        blocks.append(Table(("left out", "reason"), left_out[:NAMED_FILES]))
    if len(left_out) > NAMED_FILES:
        blocks.append(Note(f"... and {len(left_out) - NAMED_FILES} more, in run.json."))
    return blocks


def _times(info: RunInfo, rounds: RoundRows) -> Block:
    stages = dict.fromkeys(k for row in rounds for k in row if k.startswith("seconds_"))
    facts = {
        "started": info.started.strftime("%Y-%m-%d %H:%M UTC"),
        "whole run": f"{info.seconds / 60:.1f} minutes" if info.seconds else "not known",
    }
    for stage in stages:
        spent = [float(row[stage]) for row in rounds if stage in row]
        facts[stage.removeprefix("seconds_")] = (
            f"{sum(spent):.0f} s, {np.mean(spent):.1f} s a round"
        )
    return Facts({**facts, "device": info.device})


def _settings(info: RunInfo) -> Block:
    size, spec = info.preprocessing, info.spec
    weights = f"{spec.weights} ({info.origin.weights[:12]})" if spec.weights else ""
    facts = {
        "method": info.method,
        "backbone": info.backbone + (" with attention" if info.attention else ""),
        "crops as read": f"{size.height}x{size.width}, {size.interpolation}",
        "recipe": spec.recipe_name,
        "seed": str(spec.seed),
        "started from": ", ".join(each[:12] for each in info.origin.inits)
        or weights
        or "random numbers",
        "camera pattern": spec.camera_pattern or "",
        "held back": f"{spec.hold_back:.0%} of the crops, for the gate" if spec.hold_back else "",
        **{
            name: _value(value)
            for name, value in flatten(spec.recipe.model_dump(mode="json")).items()
        },
        "versions": ", ".join(f"{name} {number}" for name, number in info.versions.items()),
    }
    return Facts({name: value for name, value in facts.items() if value})


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else ""
