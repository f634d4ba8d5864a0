"""A method comes with its tests, recipes, paper's tasks and page, or this fails."""

from __future__ import annotations

import configparser
import re
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.methods import METHODS
from cli.common import METHOD_HELP

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


def kept_apart() -> list[str]:
    """Modules of the contract that no method imports another one."""
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    return contracts["importlinter:contract:methods-apart"]["modules"].split()


def comments_on_methods() -> list[str]:
    """Comments on the field `method` in the wire contract."""
    proto = ROOT / "proto" / "resight" / "v1" / "adaptation.proto"
    return re.findall(r"// (.+)\n  string method = ", proto.read_text())


def missing(name: str, *, of_a_paper: bool = True) -> set[str]:
    """What a method lacks."""
    there = {
        "tests": bool(cases_of(name)),
        "recipe": method_of(name) == name,
        "small recipe": method_of(f"{name}_small") == name,
        "link in README.md": f"](docs/methods/{name}.md)" in (ROOT / "README.md").read_text(),
        "name in docs/cli.md": f"`{name}`" in (ROOT / "docs" / "cli.md").read_text(),
        "row in docs/recipes.md": f"\n| `{name}` |" in (ROOT / "docs" / "recipes.md").read_text(),
        "methods-apart in .importlinter": f"adapt.methods.{name}" in kept_apart(),
    }
    wanted: tuple[str, ...] = SECTIONS
    if of_a_paper:
        choosing = (ROOT / "docs" / "choosing.md").read_text()
        there["paper's tasks"] = (PAPERS / f"{name}.toml").exists()
        there["link in docs/choosing.md"] = f"[{name}](methods/{name}.md)" in choosing
        comments = comments_on_methods()
        there["comments of the wire"] = bool(comments) and all(f'"{name}"' in c for c in comments)
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
    assert len(missing("absent")) == 10 + len(SECTIONS) + len(SECTIONS_OF_A_PAPER)


def test_both_fields_of_the_wire_are_looked_at() -> None:
    assert len(comments_on_methods()) == 2


def test_the_help_names_every_method() -> None:
    assert re.findall(r"[a-z]+", METHOD_HELP.replace(" or ", " ")) == sorted(METHODS)


def test_no_file_is_left_of_a_method_that_is_not_there() -> None:
    known = {"source", *METHODS}
    assert {p.stem for p in (ROOT / "docs" / "methods").glob("*.md")} == known
    tested = {p.stem for p in (ROOT / "tests" / "adapt" / "methods").glob("test_*.py")}
    assert tested == {f"test_{name}" for name in known}
    assert {p.stem for p in PAPERS.glob("*.toml")} == set(METHODS)
    recipes = {p.stem for p in (ROOT / "adapt" / "recipes").glob("*.toml")}
    assert {str(method_of(recipe)) for recipe in recipes} == known
