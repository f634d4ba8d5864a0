"""docs/report.md explains every part of the page, and gives the limits that the code has."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.clustering.labels.guards import WARN_OUTLIER_SHARE
from adapt.report import run_report, verdict
from adapt.report.clusters import SHOWN
from adapt.report.curves import PLANNED
from adapt.report.maps import COLORED

TEXT = (Path(__file__).parents[2] / "docs" / "report.md").read_text()


@pytest.mark.parametrize("title", [*(each.title for each in PLANNED), "Parts of the loss", "Time"])
def test_every_chart_is_explained(title: str) -> None:
    assert f"| {title} |" in TEXT


@pytest.mark.parametrize("title", run_report.HEADINGS)
def test_every_part_has_a_heading(title: str) -> None:
    headings = [line for line in TEXT.splitlines() if line.startswith("## ")]
    assert any(title in line for line in headings)


def test_limits_are_those_of_the_code() -> None:
    for limit in (
        f"{verdict.FEW_OUTLIERS:.0%}".replace("%", " %") + " or less",
        f"more than {100 * WARN_OUTLIER_SHARE:.0f} %",
        f"{verdict.SETTLED} or more | {verdict.UNSETTLED} or more",
        f"{100 * verdict.FEW_ACROSS:.0f} % or more",
        f"more than {100 * verdict.MANY_UNREADABLE:.0f} %",
        f"at most {run_report.MAP_CROPS:,} crops",
    ):
        assert limit in TEXT


def test_numbers_in_words_are_those_of_the_code() -> None:
    found = (run_report.QUERIES, run_report.ANSWERS, run_report.CLUSTERS_EACH, SHOWN, COLORED)
    assert found == (6, 8, 3, 12, 12), "then change Six, eight, three, nine and twelve in the page"
