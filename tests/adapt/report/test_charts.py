"""Charts: what is drawn, in the page's colors, and nothing that a name smuggles in."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import matplotlib
import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.report.charts import bar_chart, line_chart, stacked_chart

ROUNDS = [{"round": 1, "loss": 2.0}, {"round": 2, "loss": 1.0, "agreement": 0.5}]
SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [t.text or "" for t in ElementTree.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314


def test_a_line_per_figure_with_its_name() -> None:
    svg = line_chart("Both", "", ROUNDS, {"loss": "a loss", "agreement": "b"}, unit="m").svg
    assert {"a loss", "b", "round", "m", "1", "2"} <= set(texts(svg))


def test_a_single_line_needs_no_legend() -> None:
    assert "a loss" not in texts(line_chart("One", "", ROUNDS, {"loss": "a loss"}).svg)


def test_shares_are_drawn_from_0_to_100_percent() -> None:
    shown = texts(line_chart("S", "", ROUNDS, {"agreement": "x"}, share=True).svg)
    assert {"0%", "100%"} <= set(shown)


def test_logarithmic_ticks_are_plain_numbers() -> None:
    rows = [{"round": 1, "lr": 3.5e-4}, {"round": 2, "lr": 3.5e-5}, {"round": 3, "lr": 0.0}]
    shown = texts(line_chart("L", "", rows, {"lr": "lr"}, log=True).svg)
    assert "0.0001" in shown
    assert not [text for text in shown if "math" in text or "$" in text]


def test_drawing_takes_the_color_of_the_page() -> None:
    svg = line_chart("One", "", ROUNDS, {"loss": "a"}).svg
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert "<style" not in svg


def test_ids_are_each_charts_own() -> None:
    first = line_chart("One", "", ROUNDS, {"loss": "a"}).svg
    second = line_chart("Other thing", "", ROUNDS, {"loss": "a"}).svg
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
    assert not ids[0] & ids[1]
    for svg, own in zip((first, second), ids, strict=True):
        used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
        assert used
        assert used <= own


@pytest.mark.parametrize("name", ["$x^{$", "</text><script>alert(1)</script>", "_hidden", "a&b<c"])
def test_names_are_text(name: str) -> None:
    svg = line_chart("T", "", ROUNDS, {"loss": name, "agreement": "b"}).svg
    assert "<script" not in svg
    assert (name in texts(svg)) or name.startswith("_")


def test_a_title_is_escaped() -> None:
    svg = line_chart('"><script>', "", ROUNDS, {"loss": "a"}).svg
    assert "<script" not in svg
    ElementTree.fromstring(svg)  # noqa: S314


def test_same_figures_same_drawing_and_no_lasting_style() -> None:
    before = {key: matplotlib.rcParams[key] for key in ("svg.fonttype", "text.color", "font.size")}
    names = {"loss": "a", "agreement": "b"}
    drawn = {stacked_chart("T", "", ROUNDS, names, unit="s").svg for _ in range(2)}
    assert len(drawn) == 1
    assert {key: matplotlib.rcParams[key] for key in before} == before


def test_a_stack_that_lacks_a_figure_is_a_gap() -> None:
    """Not a bar of the rest: as if the stage had taken no time."""
    whole = [{"round": n, "a": 1.0, "b": 2.0} for n in (1, 3)]
    names = {"a": "a", "b": "b"}
    gap = stacked_chart("T", "", [whole[0], {"round": 2, "a": 1.0}, whole[1]], names, unit="s").svg
    assert gap == stacked_chart("T", "", whole, names, unit="s").svg


def test_bars_have_the_heights_of_the_values() -> None:
    svg = bar_chart("B", "", [4.0, 2.0, 1.0], first=1, across="n", up="crops").svg
    root = ElementTree.fromstring(svg)  # noqa: S314
    paths = [p.get("d", "") for p in root.iter(f"{SVG}path") if "#4477d8" in (p.get("style") or "")]
    heights = []
    for path in paths:
        ys = [float(y) for _, y in re.findall(r"[ML] (\S+) (\S+)", path)]
        heights.append(max(ys) - min(ys))
    assert [h / heights[2] for h in heights] == pytest.approx([4, 2, 1], rel=1e-3)
