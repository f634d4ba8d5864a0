"""The template: every block has its form, text stays text, and nothing is loaded."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.report.charts import line_chart
from adapt.report.maps import Entry, Legend
from adapt.report.page import (
    Block,
    Charts,
    Facts,
    Note,
    Page,
    Picture,
    Pictures,
    Point,
    Rankings,
    Section,
    Table,
    render,
)
from adapt.report.rankings import Comparison, RankList, Shown
from tests.support.html_outline import outline

NASTY = "</td><script>alert('x')</script>{{ 7 * 7 }}"
URI = "data:image/png;base64,AA=="
LEGEND = Legend(NASTY, (Entry(NASTY, "#112233", "o", "o"),), (0,))


def page(*blocks: Block, **more: object) -> str:
    return render(Page("title", "lead", [Section("part", blocks)], **more)).decode()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "block",
    [
        Note(NASTY),
        Table([NASTY], [[NASTY]]),
        Facts({NASTY: NASTY}),
        Charts([line_chart(NASTY, NASTY, [{"round": 1, "a": 1.0}], {"a": NASTY})]),
        Pictures([Picture(URI, NASTY, NASTY)], legends=[LEGEND]),
        Rankings([Comparison(Shown(URI, NASTY), (RankList(NASTY, (Shown(URI, NASTY, True),)),))]),
    ],
)
def test_text_stays_text_in_every_block(block: Block) -> None:
    made = page(block)
    outline(made)
    assert "<script" not in made
    assert "{{ 7 * 7 }}" in made


def test_text_stays_text_on_top() -> None:
    made = render(Page(NASTY, NASTY, [Section(NASTY, [], NASTY)], "bad", [Point("odd", NASTY)]))
    outline(made.decode())
    assert b"<script" not in made


def test_a_mark_is_a_sign_and_not_only_a_color() -> None:
    points = [Point("good", "a"), Point("odd", "b"), Point("bad", "c"), Point("plain", "d")]
    made = page(points=points)
    for sign, point in zip("✓!✗·", points, strict=True):
        assert f'<b class="{point.mark}">{sign}</b>{point.text}</li>' in made


def test_what_is_missing_is_marked() -> None:
    assert '<p class="missing">gone</p>' in page(Note("gone", missing=True))


def test_answers_are_framed_as_what_they_are() -> None:
    shown = tuple(Shown(URI, "c1", right) for right in (True, False, None))
    made = page(Rankings([Comparison(Shown(URI, "q"), (RankList("m", shown),))]))
    assert made.count('class="right"') == made.count('class="wrong"') == 1
    assert made.count("<img ") == 4


def test_the_browser_is_told_to_load_nothing() -> None:
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page()


def test_what_is_no_text_is_escaped() -> None:
    assert "odd \\udcff name" in page(Note("odd \udcff name"))
