"""The page of a run: whole with everything there, and honest about what is not."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.errors import ConfigError, RunError
from adapt.recipes import load_recipe
from adapt.report.material import Material, gather
from adapt.report.page import render
from adapt.report.run_report import ANSWERS, CLUSTERS_EACH, QUERIES, run_page
from adapt.report.verdict import GateVerdict
from adapt.runs import Run
from adapt.training import Machine, adapt
from tests.support.tiny_runs import finished
from tests.support.tiny_sets import write_market
from tests.support.tiny_site import KMEANS, SHORT, source_run

CPU = torch.device("cpu")
HOSTILE = '<img src=x onerror=alert(1)>"&'
ROUNDS = ("schedule.rounds=2",)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source run, and an adaptation to a site whose folders and files have nasty names."""
    root = tmp_path_factory.mktemp("home")
    market = write_market(root / "market", persons=6, seed=1)
    for file in sorted((market / "bounding_box_train").iterdir()):
        camera = file.name[5:7] + HOSTILE.replace("/", "")
        place = root / "site" / camera / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    (root / "site" / camera / "a<script>.png").write_bytes(b"no image")
    source_run(write_market(root / "source", persons=3), root / "old", 1)
    adapt(
        root / "site",
        camera_pattern=None,
        inits=[root / "old"],
        recipe=load_recipe("mmt_small", method="mmt", overrides=(*SHORT, *ROUNDS, *KMEANS)),
        recipe_name="mmt_small " + HOSTILE,
        out=root / "new",
        machine=Machine(CPU, 1),
    )
    return root


@pytest.fixture
def copied(home: Path, tmp_path: Path) -> Run:
    """The adaptation, to be spoilt."""
    shutil.copytree(home / "new", tmp_path / "new")
    return Run.open(tmp_path / "new")


def page_of(run: Run, material: Material, gate: GateVerdict | None = None) -> str:
    return render(run_page(run, material, gate)).decode()


class Outline(HTMLParser):
    """Tags that are open or closed wrongly, what is loaded, headings, scripts."""

    VOID = frozenset({"meta", "img", "br", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.headings: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"<{tag} {name}>"
            if name in ("src", "href", "xlink:href", "data", "action", "srcset"):
                self.loaded.append(value or "")
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, text: str) -> None:
        if self.stack and self.stack[-1] == "h2":
            self.headings.append(text)


def outline(page: str) -> Outline:
    found = Outline()
    found.feed(page)
    assert found.stack == [], "every tag is closed"
    assert not {"script", "link", "iframe", "object", "form", "base"} & set(found.tags)
    assert all(each.startswith(("data:image/", "#")) for each in found.loaded), "nothing from afar"
    assert not re.search(r"url\((?!#)|@import", page)
    return found


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
    sheets, maps = 3 * CLUSTERS_EACH, 2 * 2
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


def test_the_same_run_gives_the_same_page(home: Path) -> None:
    run = Run.open(home / "new")
    pages = {page_of(run, gather(run, None, None, CPU)) for _ in range(2)}
    assert len(pages) == 1


def test_crops_that_were_moved_are_found_by_target(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "site", tmp_path / "moved")
    run = Run.open(home / "new")
    assert gather(run, tmp_path / "moved", None, CPU).problems == {}


def test_crops_that_are_gone_leave_a_page_that_says_so(copied: Run, tmp_path: Path) -> None:
    material = gather(copied, tmp_path / "gone", None, CPU)
    page = page_of(copied, material)
    assert outline(page).tags.count("img") == 0
    assert page.count("gone is not a folder") == 3
    assert "Crops in each cluster" in page, "sizes need no crops"


def test_crops_that_have_changed_are_not_shown_for_the_others(
    home: Path, copied: Run, tmp_path: Path
) -> None:
    shutil.copytree(home / "site", tmp_path / "site")
    next((tmp_path / "site").rglob("0001_*")).unlink()
    material = gather(copied, tmp_path / "site", None, CPU)
    assert material.data is None
    assert "not those that the run learnt from (24 then, 23 now)" in material.problems["crops"]


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


def test_another_old_model_is_not_called_the_start(home: Path, copied: Run) -> None:
    material = gather(copied, None, copied, CPU)
    assert material.notes == (
        f"Before: the network of {copied.path}, which this run did NOT start from.",
    )
    np.testing.assert_array_equal(material.embeddings["before"], material.embeddings["after"])


def test_an_old_model_of_another_size_is_refused(home: Path, tmp_path: Path) -> None:
    run = Run.open(home / "new")
    size = run.info.preprocessing.model_copy(update={"height": 64})
    other = finished(tmp_path / "other", preprocessing=size)
    with pytest.raises(ConfigError, match="another size"):
        gather(run, None, other, CPU)


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
    assert "The run is still going: 0 of 2 rounds are done." in page
    assert "No round was finished." in page


def test_a_gate_is_on_top(home: Path) -> None:
    gate = GateVerdict(verdict="reject", reasons=("fewer <neighbours>",))
    page = page_of(Run.open(home / "new"), Material(problems={"crops": "x"}), gate)
    assert page.index("Reject: the gate") < page.index("fewer &lt;neighbours&gt;")
    assert 'class="lead bad"' in page
