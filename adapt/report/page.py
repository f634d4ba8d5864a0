"""A page in parts: blocks below headings, filled into one template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import ClassVar, Literal

import jinja2

from adapt.report.charts import Chart
from adapt.report.maps import Legend
from adapt.report.rankings import Comparison

Mark = Literal["good", "odd", "bad", "plain"]
"""What a sentence says of a run: as it should be, worth a look, in the way of using it, a fact."""


@dataclass(frozen=True)
class Point:
    """One sentence of a verdict."""

    mark: Mark
    text: str


@dataclass(frozen=True)
class Note:
    """A paragraph; `missing` says why something is not shown."""

    text: str
    missing: bool = False
    kind: ClassVar[str] = "note"


@dataclass(frozen=True)
class Table:
    """Rows of cells below a head row."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    facts: Mapping[str, str]
    kind: ClassVar[str] = "facts"


@dataclass(frozen=True)
class Charts:
    """Curves side by side."""

    charts: Sequence[Chart]
    kind: ClassVar[str] = "charts"


@dataclass(frozen=True)
class Picture:
    """uri: data URI of a JPEG or PNG. title: above it, or empty. caption: below it."""

    uri: str
    caption: str
    title: str = ""


@dataclass(frozen=True)
class Pictures:
    """Pictures with what their colors mean.

    layout: as many side by side as there is room for, two, or each in a row of its own.
    """

    pictures: Sequence[Picture]
    layout: Literal["grid", "pairs", "rows"] = "grid"
    legends: Sequence[Legend] = ()
    kind: ClassVar[str] = "pictures"


@dataclass(frozen=True)
class Rankings:
    """Rank lists of several models, query by query."""

    comparisons: Sequence[Comparison]
    kind: ClassVar[str] = "rankings"


Block = Note | Table | Facts | Charts | Pictures | Rankings


@dataclass(frozen=True)
class Section:
    """A heading, a sentence on how to read what is below it, and that."""

    title: str
    blocks: Sequence[Block]
    note: str = ""


@dataclass(frozen=True)
class Page:
    """lead: one sentence with the outcome, and what it means for the reader in `mark`."""

    title: str
    lead: str
    sections: Sequence[Section]
    mark: Mark = "plain"
    points: Sequence[Point] = ()


def render(page: Page) -> bytes:
    """Fill the template: UTF-8 HTML that loads nothing.

    What is not text, as the bytes of an odd file name, is shown as an escape.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files("adapt.report").joinpath("page.html.j2").read_text("utf-8")
    return environment.from_string(source).render(page=page).encode("utf-8", "backslashreplace")
