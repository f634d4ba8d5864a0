from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path

from typer.testing import CliRunner

from cli.main import app

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_version_is_one_line() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout == f"resight {version('resight')}\n"


def test_the_installed_version_is_that_of_the_project() -> None:
    """`make setup` installs the project again when pyproject.toml changes."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    assert version("resight") == project["version"]


def test_without_a_command_it_prints_its_help() -> None:
    result = CliRunner().invoke(app, [])
    assert "adapts itself to each new camera site" in result.output
    assert "--version" in result.output
