"""A method comes with its tests, recipes, paper's tasks and page, or this fails."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.methods import METHODS

ROOT = Path(__file__).parents[2]
PAPERS = ROOT / "adapt" / "recipes" / "papers"
SECTIONS = ("Departures", "Options", "Logged", "When to choose")
SECTIONS_OF_A_PAPER = ("Equations", "Published figures")


def cases_of(name: str) -> list[str]:
    file = ROOT / "tests" / "adapt" / "methods" / f"test_{name}.py"
    return re.findall(r"^def test_", file.read_text(), re.MULTILINE) if file.exists() else []


def method_of(recipe: str) -> object:
    file = ROOT / "adapt" / "recipes" / f"{recipe}.toml"
    return tomllib.loads(file.read_text()).get("method") if file.exists() else None


def headings(name: str) -> list[str]:
    page = ROOT / "docs" / "methods" / f"{name}.md"
    return re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE) if page.exists() else []


def missing(name: str, *, of_a_paper: bool = True) -> set[str]:
    """What a method lacks."""
    there = {
        "tests": bool(cases_of(name)),
        "recipe": method_of(name) == name,
        "small recipe": method_of(f"{name}_small") == name,
        "link in README.md": f"](docs/methods/{name}.md)" in (ROOT / "README.md").read_text(),
        "name in docs/cli.md": f"`{name}`" in (ROOT / "docs" / "cli.md").read_text(),
    }
    wanted: tuple[str, ...] = SECTIONS
    if of_a_paper:
        there["paper's tasks"] = (PAPERS / f"{name}.toml").exists()
        wanted = (*SECTIONS, *SECTIONS_OF_A_PAPER)
    for section in wanted:
        there[f"section {section}"] = any(h.startswith(section) for h in headings(name))
    return {thing for thing, found in there.items() if not found}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_whole(name: str) -> None:
    assert not missing(name)


def test_pretraining_is_whole() -> None:
    assert not missing("source", of_a_paper=False)


def test_a_method_of_which_nothing_is_there_lacks_everything() -> None:
    assert len(missing("absent")) == 6 + len(SECTIONS) + len(SECTIONS_OF_A_PAPER)


def test_no_file_is_left_of_a_method_that_is_not_there() -> None:
    known = {"source", *METHODS}
    assert {p.stem for p in (ROOT / "docs" / "methods").glob("*.md")} == known
    tested = {p.stem for p in (ROOT / "tests" / "adapt" / "methods").glob("test_*.py")}
    assert tested == {f"test_{name}" for name in known}
    assert {p.stem for p in PAPERS.glob("*.toml")} == set(METHODS)
    recipes = {p.stem for p in (ROOT / "adapt" / "recipes").glob("*.toml")}
    assert {str(method_of(recipe)) for recipe in recipes} == known
