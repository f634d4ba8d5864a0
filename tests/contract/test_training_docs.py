"""Documentation of training cannot drift: a thing without its line fails here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel

pytest.importorskip("torch", reason="adapt needs torch")

import typer

from adapt.clustering.labels.guards import LabelReport
from adapt.clustering.labels.truth import truth_figures
from adapt.config import Recipe
from adapt.methods import METHODS, Source
from adapt.recipes import recipe_names
from adapt.training.extraction import MIN_CAMERA_CROPS
from cli.main import app

DOCS = Path(__file__).parents[2] / "docs"
METHOD_PAGES = {"source": Source.Options, **{n: m.Options for n, m in METHODS.items()}}


def sections() -> dict[str, type[BaseModel]]:
    return {
        name: field.annotation
        for name, field in Recipe.model_fields.items()
        if isinstance(field.annotation, type)
        and issubclass(field.annotation, BaseModel)
        and name != "options"
    }


@pytest.mark.parametrize("section", sections())
def test_every_recipe_field_is_documented(section: str) -> None:
    text = (DOCS / "recipes.md").read_text().partition(f"## [{section}]")[2].partition("\n## ")[0]
    missing = [name for name in sections()[section].model_fields if f"`{name}`" not in text]
    assert not missing


def test_every_recipe_is_documented() -> None:
    text = (DOCS / "recipes.md").read_text()
    assert not [name for name in recipe_names() if f"`{name}`" not in text]


@pytest.mark.parametrize("method", METHOD_PAGES)
def test_every_method_and_its_options_have_a_page(method: str) -> None:
    text = (DOCS / "methods" / f"{method}.md").read_text()
    missing = [o for o in METHOD_PAGES[method].model_fields if f"`{o}`" not in text]
    assert not missing


def test_readme_and_help_name_every_method() -> None:
    readme = (DOCS.parent / "README.md").read_text()
    assert not [name for name in METHODS if f"docs/methods/{name}.md" not in readme]
    adapt = typer.main.get_command(app).commands["adapt"]  # type: ignore[attr-defined]
    (method,) = (parameter for parameter in adapt.params if parameter.name == "method")
    assert not [name for name in METHODS if name not in method.help]


def commands() -> dict[str, list[str]]:
    """Command path -> its long options."""
    found: dict[str, list[str]] = {}

    def walk(command: object, path: str) -> None:
        children = getattr(command, "commands", None)
        if children is None:
            found[path] = [
                option
                for parameter in command.params  # type: ignore[attr-defined]
                for option in parameter.opts
                if option.startswith("--") and option != "--help"
            ]
            return
        for name, child in children.items():
            walk(child, f"{path} {name}")

    walk(typer.main.get_command(app), "resight")
    return found


@pytest.mark.parametrize("path", commands())
def test_every_command_and_option_is_documented(path: str) -> None:
    text = "".join((DOCS / page).read_text() for page in ("cli.md", "models.md", "service.md"))
    assert path in text
    assert not [option for option in commands()[path] if option not in text]


def test_the_crops_that_a_camera_needs_for_statistics_of_its_own_are_documented() -> None:
    text = (DOCS / "recipes.md").read_text()
    assert f"of that camera (at least {MIN_CAMERA_CROPS} crops)" in text


def test_figures_of_every_run_are_documented() -> None:
    report = LabelReport(2, 0.0, 1, 1.0, 1, 0.5, 1.0, 0.0, 0.4, ())
    truth = truth_figures(np.array([0, 0, 1]), np.array([0, 0, 1]))
    assert len(report.metrics()) == 9
    assert len(truth) == 2
    text = (DOCS / "cli.md").read_text().partition("| figure |")[2].partition("\n\n")[0]
    names = [*report.metrics(), *(f"val_{name}" for name in truth)]
    assert not [name for name in names if f"`{name}`" not in text]
