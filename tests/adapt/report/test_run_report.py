"""The page of a run: whole with everything there, and honest about what is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="adapt needs torch")

import torch

from adapt.errors import ConfigError, RunError
from adapt.report import run_report
from adapt.report.charts import Chart
from adapt.report.curves import RoundRows, round_charts
from adapt.report.material import Material, gather
from adapt.report.page import render
from adapt.report.run_report import ANSWERS, CLUSTERS_EACH, QUERIES, run_page
from adapt.runs.folder import Run
from models.job_contract import GateVerdict
from tests.support.html_outline import outline

pytestmark = pytest.mark.usefixtures("thin")

CPU = torch.device("cpu")


Drawn = dict[str, list[Chart]]


@pytest.fixture(scope="module", autouse=True)
def drawn() -> Iterator[Drawn]:
    """Curves are most of a page's work: the same are drawn once; what was, by its figures."""
    made: Drawn = {}

    def remembered(rounds: RoundRows) -> list[Chart]:
        if str(rounds) not in made:
            made[str(rounds)] = round_charts(rounds)
        return made[str(rounds)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_report, "round_charts", remembered)
        yield made


def page_of(run: Run, material: Material, gate: GateVerdict | None = None) -> str:
    return render(run_page(run, material, gate)).decode()


def test_a_whole_page(home: Path) -> None:
    run = Run.open(home / "new")
    material = gather(run, None, Run.open(home / "old"), CPU)
    assert material.problems == {}
    assert [len(labels) for labels in material.labels] == [24]
    page = page_of(run, material)
    found = outline(page)
    assert found.headings == [
        "Over the rounds",
        "Clusters of the last round",
        "Who is found elsewhere",
        "Map of the site",
        "Warnings",
        "Crops",
        "Where the time went",
        "Settings",
    ]
    rank_lists = QUERIES * (1 + 2 * ANSWERS)
    clusters = len(set(material.labels[0].tolist()))
    assert clusters < 3 * CLUSTERS_EACH, "then each is shown once"
    sheets, maps = clusters, 2 * 2
    assert found.tags.count("img") == rank_lists + sheets + maps
    assert "which this run started from" in page
    assert "All 24 crops; the same in each map." in page
    assert "of one person" not in page


def test_names_are_text_and_not_html(home: Path) -> None:
    run = Run.open(home / "new")
    page = page_of(run, gather(run, None, None, CPU))
    outline(page)
    assert "&lt;img src=x onerror=alert(1)&gt;&#34;&amp;" in page
    assert "a&lt;script&gt;.png" in page


def test_a_name_that_is_no_text_is_shown_as_an_escape(copied: Run) -> None:
    (target, *others) = copied.info.data
    odd = target.model_copy(update={"cameras": ("\udcff",), "dropped": {"\udcfe.png": "why"}})
    copied.info = copied.info.model_copy(update={"data": (odd, *others)})
    assert "\\udcfe.png" in page_of(copied, Material(problems={"crops": "x", "labels": "y"}))


def test_the_same_run_gives_the_same_page(home: Path, drawn: Drawn) -> None:
    run = Run.open(home / "new")
    pages = set()
    for _ in range(2):
        drawn.clear()
        pages.add(page_of(run, gather(run, None, None, CPU)))
    assert len(pages) == 1


def test_crops_that_are_gone_leave_a_page_that_says_so(copied: Run, tmp_path: Path) -> None:
    material = gather(copied, tmp_path / "gone", None, CPU)
    page = page_of(copied, material)
    assert outline(page).tags.count("img") == 0
    assert page.count("gone is not a folder") == 3
    assert "Crops in each cluster" in page, "sizes need no crops"


@pytest.mark.parametrize(
    ("file", "part", "missing"),
    [
        ("labels.safetensors", "labels", ["Clusters of the last round"]),
        ("model.safetensors", "models", ["Who is found elsewhere", "Map of the site"]),
    ],
)
@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_files_that_cannot_be_used_are_left_out_and_named(
    copied: Run, file: str, part: str, missing: list[str], how: str
) -> None:
    if how == "gone":
        (copied.path / file).unlink()
    else:
        (copied.path / file).write_bytes(b"\x00" * 50)
    material = gather(copied, None, None, CPU)
    assert list(material.problems) == [part]
    page = page_of(copied, material)
    outline(page)
    for heading in missing:
        section = page.partition(f"<h2>{heading}</h2>")[2].partition("</section>")[0]
        assert 'class="missing">Not shown: ' in section


def test_figures_that_are_damaged_are_an_error(copied: Run) -> None:
    (copied.path / "metrics.jsonl").write_text("{\n")
    with pytest.raises(RunError, match="damaged"):
        run_page(copied, Material(), None)


def test_pretraining_has_no_site(home: Path) -> None:
    run = Run.open(home / "old")
    page = page_of(run, gather(run, None, None, CPU))
    assert outline(page).headings == [
        "Over the rounds",
        "Warnings",
        "Crops",
        "Where the time went",
        "Settings",
    ]
    assert "Parts of the loss" in page
    with pytest.raises(ConfigError, match="leave out --target"):
        gather(run, home / "site", None, CPU)


def test_a_run_without_a_round_has_a_page(home: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", Run.open(home / "new").info.model_copy(
        update={"rounds": 0, "state": "running"}
    ))  # fmt: skip
    page = page_of(run, gather(run, None, None, CPU))
    outline(page)
    assert "The run is still going, 0 of 2 rounds done." in page
    assert "No round was finished." in page


def test_a_gate_is_on_top(home: Path) -> None:
    gate = GateVerdict(verdict="reject", reasons=("fewer <neighbors>",))
    page = page_of(Run.open(home / "new"), Material(problems={"crops": "x"}), gate)
    assert page.index("Reject: the gate") < page.index("fewer &lt;neighbors&gt;")
    assert 'class="lead bad"' in page
