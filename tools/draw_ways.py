"""Draw docs/images/ways.svg, the picture of docs/architecture.md.

python tools/draw_ways.py

A column is one way of the data. Boxes say what the data is, arrows which module turns it into the
next. Edit `WAYS`, run this, and look at the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "ways.svg"

_COLUMN, _BOX, _HEIGHT, _STEP, _TOP = 420, 250, 44, 112, 92

_STYLE = """
  text { font-family: Helvetica, Arial, 'DejaVu Sans', sans-serif; font-size: 14px; fill: #1f2328 }
  .ground { fill: #ffffff }
  .box { fill: #eef3fa; stroke: #3b6ea5; stroke-width: 1.5 }
  .title { font-size: 18px; font-weight: bold }
  .note { font-size: 12px; fill: #57606a }
  .module { font-family: Menlo, Consolas, 'DejaVu Sans Mono', monospace; font-size: 12px }
  .module { fill: #0a5299 }
  .arrow { fill: none; stroke: #57606a; stroke-width: 1.5 }
  .network { fill: none; stroke: #a04b00; stroke-width: 1.5; stroke-dasharray: 6 4 }
  .crops { fill: none; stroke: #1a7f37; stroke-width: 1.5; stroke-dasharray: 2 3 }
  .head { fill: #57606a }
  .head-network { fill: #a04b00 }
  .head-crops { fill: #1a7f37 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .ground { fill: #0d1117 }
    .box { fill: #16263b; stroke: #6ea8e6 }
    .note { fill: #9da7b3 }
    .module { fill: #79b8ff }
    .arrow { stroke: #9da7b3 }
    .network { stroke: #ffb070 }
    .crops { stroke: #56d364 }
    .head { fill: #9da7b3 }
    .head-network { fill: #ffb070 }
    .head-crops { fill: #56d364 }
  }
"""


@dataclass(frozen=True)
class Step:
    """An arrow and the box that it ends at.

    modules: who does it, as dotted names. does: in a few words. data, note: what comes out.
    """

    modules: tuple[str, ...]
    does: str
    data: str
    note: str


@dataclass(frozen=True)
class Way:
    """A column: what comes in, and what is done with it."""

    title: str
    data: str
    note: str
    steps: tuple[Step, ...]


WAYS = (
    Way(
        "A crop that trains",
        "folder of crops",
        "or a manifest that lists them",
        (
            Step(
                ("adapt.data.catalog.folders", "adapt.data.catalog.cameras"),
                "finds crops, cameras, tracks",
                "list of crops",
                "CropSet",
            ),
            Step(
                ("adapt.data.decoding.run_crops",),
                "decodes each crop once",
                "pixels in a mapped file",
                "uint8 (N, H, W, 3)",
            ),
            Step(
                ("adapt.training.extraction",),
                "embeds all crops, each round",
                "features",
                "float32 (N, D)",
            ),
            Step(
                ("adapt.clustering.clusterer",),
                "neighbor graph, then labels",
                "pseudo labels",
                "int64 (N,), -1: outlier",
            ),
            Step(
                ("adapt.data.batches.sampler", "adapt.data.batches.transforms"),
                "draws P x S, augments",
                "batch",
                "crops with their labels",
            ),
            Step(
                ("adapt.methods.mmt", "adapt.losses.mutual"),
                "or another method",
                "loss terms",
                "named, with weights",
            ),
            Step(
                ("adapt.training.loop", "adapt.training.optimizer"),
                "sums, back-propagates, steps",
                "network of the round",
                "the next round extracts with it",
            ),
            Step(
                ("adapt.runs.folder", "adapt.runs.checkpoints"),
                "writes it down",
                "run folder",
                "network, figures, record",
            ),
        ),
    ),
    Way(
        "From request to served model",
        "StartAdaptation",
        "site, method, recipe, seed",
        (
            Step(
                ("service.rpc.adaptation_servicer", "service.jobs.api"),
                "checks it, writes a row",
                "row in the database",
                "PENDING",
            ),
            Step(
                ("service.jobs.supervisor", "service.jobs.runner"),
                "takes the next, writes its files",
                "job folder",
                "job.json, crops of the site",
            ),
            Step(
                ("service.jobs.process",),
                "starts it, apart from the server",
                "python -m adapt train FOLDER",
                "a process with torch",
            ),
            Step(
                ("adapt.workflows.job",),
                "trains as in the left column",
                "run folder",
                "network, figures, record",
            ),
            Step(
                ("adapt.workflows.export",),
                "checks ONNX against torch",
                "bundle",
                "ONNX, manifest, self-test",
            ),
            Step(
                ("service.jobs.process",),
                "starts a second process",
                "python -m adapt gate FOLDER",
                "where the site has a model in use",
            ),
            Step(
                ("adapt.workflows.gate", "adapt.evaluation.gate"),
                "compares with the model in use",
                "verdict",
                "promote, hold or reject",
            ),
            Step(
                ("models.registry",),
                "adds it as SITE@N",
                "registered model",
                "nothing uses it yet",
            ),
            Step(
                ("service.rollover.activation", "service.rollover.rollover"),
                "ActivateModel: re-embeds, binds",
                "served model",
                "the site answers with it",
            ),
        ),
    ),
    Way(
        "A JPEG enrolled, then a query",
        "EnrollSightings",
        "JPEG, camera, time",
        (
            Step(
                ("service.rpc.gallery_servicer",),
                "checks the items",
                "new sightings",
                "each good or an error",
            ),
            Step(
                ("service.embedding.decode", "models.image"),
                "decodes and resizes in threads",
                "pixels",
                "uint8 (H, W, 3)",
            ),
            Step(
                ("service.embedding.batcher",),
                "admits, queues, joins callers",
                "batch",
                "uint8 (B, H, W, 3)",
            ),
            Step(
                ("service.embedding.engine",),
                "runs the ONNX model",
                "embeddings",
                "float32 (B, D), unit length",
            ),
            Step(
                ("service.gallery.gallery",),
                "checks the model's fingerprint",
                "rows to write",
                "sighting, crop, embedding",
            ),
            Step(
                ("service.store.store", "service.store.writer"),
                "one commit for several callers",
                "SQLite database",
                "the truth; then the answer",
            ),
            Step(
                ("service.gallery.live_sites", "service.gallery.index"),
                "adds what was committed",
                "index in memory",
                "faiss, exact",
            ),
        ),
    ),
)

QUERY = Way(
    "",
    "SearchSightings",
    "JPEG of the person to find",
    (
        Step(
            ("service.rpc.gallery_servicer", "service.gallery.search"),
            "embeds it as above, then compares",
            "matches",
            "score, sighting",
        ),
    ),
)
"""Below the last column: another JPEG, compared with the index."""


def modules() -> list[str]:
    """Every module that the picture names."""
    return [module for way in (*WAYS, QUERY) for step in way.steps for module in step.modules]


def draw() -> str:
    """The picture as SVG."""
    boxes = 1 + max(len(WAYS[1].steps), len(WAYS[2].steps) + 2)
    width, height = _COLUMN * len(WAYS), _TOP + _STEP * (boxes - 1) + _HEIGHT + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}" role="img">',
        "<title>Three ways of the data through resight</title>",
        f"<style>{_STYLE}</style>",
        "<defs>",
        *(
            f'<marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8"'
            f' markerHeight="8" orient="auto-start-reverse">'
            f'<path class="{name}" d="M 0 0 L 10 5 L 0 10 z"/></marker>'
            for name in ("head", "head-network", "head-crops")
        ),
        "</defs>",
        f'<rect class="ground" width="{width}" height="{height}"/>',
    ]
    for number, way in enumerate(WAYS):
        parts += _column(number, way)
    parts += [*_next_round(), *_search(), *_between_columns(), "</svg>"]
    return "\n".join(parts) + "\n"


def _left(column: int) -> int:
    return _COLUMN * column + 60


def _top(row: int) -> int:
    return _TOP + _STEP * row


def _text(x: float, y: float, kind: str, text: str, anchor: str = "start") -> str:
    kind = f' class="{kind}"' if kind else ""
    anchor = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:g}" y="{y:g}"{kind}{anchor}>{escape(text)}</text>'


def _box(column: int, row: int, data: str, note: str, aside: int = 0) -> list[str]:
    """aside: pixels to the right of its column."""
    left, top = _left(column) + aside, _top(row)
    middle = left + _BOX / 2
    return [
        f'<rect class="box" x="{left}" y="{top}" width="{_BOX}" height="{_HEIGHT}" rx="6"/>',
        _text(middle, top + 19, "", data, "middle"),
        _text(middle, top + 36, "note", note, "middle"),
    ]


def _column(number: int, way: Way) -> list[str]:
    parts = [_text(_left(number), 48, "title", way.title)]
    parts += _box(number, 0, way.data, way.note)
    x = _left(number) + 40
    for row, step in enumerate(way.steps, 1):
        parts += _arrow(x, row, step)
        parts += _box(number, row, step.data, step.note)
    return parts


def _arrow(x: int, row: int, step: Step) -> list[str]:
    """Down to a row, with who does what beside it."""
    start, end = _top(row - 1) + _HEIGHT, _top(row)
    lines = [(name, "module") for name in step.modules] + [(step.does, "note")]
    first = (start + end) / 2 + 4 - 8 * (len(lines) - 1)
    return [
        f'<path class="arrow" d="M {x} {start} V {end - 2}" marker-end="url(#head)"/>',
        *(_text(x + 14, first + 16 * line, kind, text) for line, (text, kind) in enumerate(lines)),
    ]


def _search() -> list[str]:
    """The query beside the arrow from the index, and the matches that both lead to."""
    column = len(WAYS) - 1
    index, aside = len(WAYS[column].steps), 50
    x, start, end = _left(column) + 24, _top(index) + _HEIGHT, _top(index + 2)
    (step,) = QUERY.steps
    return [
        f'<path class="arrow" d="M {x} {start} V {end - 2}" marker-end="url(#head)"/>',
        *_box(column, index + 1, QUERY.data, QUERY.note, aside),
        *_arrow(_left(column) + aside + 24, index + 2, step),
        *_box(column, index + 2, step.data, step.note),
    ]


def _next_round() -> list[str]:
    """From the network of a round back to the pixels, which are embedded again."""
    edge, start, end = _left(0), _top(7) + _HEIGHT / 2, _top(2) + _HEIGHT / 2
    return [
        f'<path class="arrow" d="M {edge} {start:g} H {edge - 30} V {end:g} H {edge - 2}"'
        ' marker-end="url(#head)"/>',
        f'<text class="note" transform="translate({edge - 38} {(start + end) / 2:g}) rotate(-90)"'
        ' text-anchor="middle">next round</text>',
    ]


def _between_columns() -> list[str]:
    """What one way takes from another."""

    def line(
        kind: str, start: tuple[float, float], bend: float, end: tuple[float, float], what: str
    ) -> list[str]:
        height = start[1] + 0.3 * (end[1] - start[1])
        return [
            f'<path class="{kind}" d="M {start[0]:g} {start[1]:g} H {bend:g} V {end[1]:g}'
            f' H {end[0]:g}" marker-end="url(#head-{kind})"/>',
            f'<text class="note" transform="translate({bend - 8:g} {height:g}) rotate(-90)"'
            f' text-anchor="middle">{escape(what)}</text>',
        ]

    def side(column: int, row: int, right: int = 0) -> tuple[float, float]:
        return _left(column) + right, _top(row) + _HEIGHT / 2

    engine = (_left(2) + 38, (_top(3) + _HEIGHT + _top(4)) / 2)
    return [
        *line("network", side(0, 8, _BOX), _left(1) - 40, side(1, 4, -2), "the job's run"),
        *line("crops", side(2, 6), _left(2) - 24, side(1, 2, _BOX + 2), "kept crops of the site"),
        *line("network", side(1, 9, _BOX), _left(2) - 64, engine, "the model that runs"),
    ]


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
