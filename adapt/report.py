"""One self-contained HTML page: the crops, curves over rounds, what models answer to a query."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import cv2
import jinja2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from adapt.data.contact_sheet import contact_sheet
from adapt.errors import DataError
from adapt.scoring import LabelledCrops
from adapt.types import CropSet

_SHOWN_HEIGHT = 112


@dataclass(frozen=True)
class Shown:
    """A crop in a rank list.

    image: JPEG as a data URI. caption: below it. right: same person as the query; None for the
    query itself.
    """

    image: str
    caption: str
    right: bool | None = None


@dataclass(frozen=True)
class RankList:
    """The first answers of one model to one query."""

    model: str
    answers: tuple[Shown, ...]


@dataclass(frozen=True)
class Comparison:
    """One query and what each model answers."""

    query: Shown
    lists: tuple[RankList, ...]


def compare_rankings(
    labelled: LabelledCrops,
    embeddings: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]],
    *,
    queries: int,
    answers: int,
) -> list[Comparison]:
    """Show the first answers of several models to the same queries, under protocol `market`.

    embeddings: model -> (query (Q, D), gallery (G, D)) unit vectors. queries: how many to show,
    evenly spread over the set, so that nobody picked them. answers: how many of each.
    """
    q, g = labelled.query.crops, labelled.gallery.crops
    g_persons = g.persons
    g_cameras = np.array([g.cameras[c] for c in g.camera_codes])
    comparisons = []
    for row in np.unique(np.linspace(0, len(q) - 1, queries).round().astype(int)):
        sample = q.samples[row]
        camera = q.cameras[sample.camera]
        allowed = (g_persons >= 0) & ~((g_persons == sample.person) & (g_cameras == camera))
        lists = []
        for model, (query, gallery) in embeddings.items():
            score = gallery @ query[row]
            score[~allowed] = -np.inf
            best = np.argsort(-score, kind="stable")[:answers]
            shown = tuple(
                Shown(
                    _data_uri(labelled.gallery.images[i]),
                    f"{g_cameras[i]} {score[i]:.2f}",
                    bool(g_persons[i] == sample.person),
                )
                for i in best
            )
            lists.append(RankList(model, shown))
        shown_query = Shown(_data_uri(labelled.query.images[row]), f"query {camera}")
        comparisons.append(Comparison(shown_query, tuple(lists)))
    return comparisons


def curves(rounds: Sequence[Mapping[str, float]], panels: Mapping[str, Sequence[str]]) -> str:
    """Draw figures over rounds as one SVG; panels: title -> names of figures in `rounds`.

    A figure that a round does not have (agreement with the round before, in the first) is a gap.
    """
    figure = Figure(figsize=(4 * len(panels), 3), layout="constrained")
    x = [r["round"] for r in rounds]
    for axis, (title, names) in zip(
        np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True
    ):
        values = {name: [r.get(name, np.nan) for r in rounds] for name in names}
        for name in names:
            axis.plot(x, values[name], marker="o", ms=3, label=name)
        if all(0 <= v <= 1 for series in values.values() for v in series if not np.isnan(v)):
            axis.set_ylim(0, 1.02)  # shares: what has not moved has to look so
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("round", fontsize=8)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        if len(names) > 1:
            axis.legend(fontsize=7)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def site_sheet(crops: CropSet, *, people: int, each: int) -> bytes:
    """Lay out some people of a labelled set, a row for each, cameras from left to right.

    people: how many, evenly spread over those whom every camera saw at least `each` times.
    each: crops of a person in each camera, the first ones.
    Returns a JPEG file. Raises DataError when nobody was seen so often by every camera.
    """
    seen: dict[int, list[list[Path]]] = {}
    for sample in crops.samples:
        cells = seen.setdefault(sample.person, [[] for _ in crops.cameras])
        cells[sample.camera].append(sample.path)
    whole = [p for p in sorted(seen) if all(len(cell) >= each for cell in seen[p])]
    if not whole:
        raise DataError(f"{crops.root}: nobody was seen {each} times by every camera")
    rows = np.unique(np.linspace(0, len(whole) - 1, people).round().astype(int))
    chosen = [path for row in rows for cell in seen[whole[row]] for path in cell[:each]]
    return _jpeg(contact_sheet(chosen, columns=each * len(crops.cameras)))


def render(
    *,
    title: str,
    lead: str,
    table: Sequence[Sequence[str]],
    curves_svg: str,
    comparisons: Sequence[Comparison],
    sheets: Mapping[str, bytes],
    facts: Mapping[str, str],
) -> str:
    """Fill the page.

    lead: one sentence with the outcome. table: head row first. sheets: title -> JPEG file.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(files("adapt").joinpath("report.html.j2").read_text())
    return template.render(
        title=title,
        lead=lead,
        table=table,
        curves_svg=curves_svg,
        comparisons=comparisons,
        sheets={title: _uri(jpeg) for title, jpeg in sheets.items()},
        facts=facts,
    )


def _data_uri(image: NDArray[np.uint8]) -> str:
    width = round(image.shape[1] * _SHOWN_HEIGHT / image.shape[0])
    shown = cv2.resize(image, (width, _SHOWN_HEIGHT), interpolation=cv2.INTER_LINEAR)
    return _uri(_jpeg(np.asarray(shown, np.uint8)))


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    _, encoded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return encoded.tobytes()


def _uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
