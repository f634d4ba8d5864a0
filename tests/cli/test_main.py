from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli.main
from adapt.errors import StoppedError
from cli.main import app
from models.job_contract import EXIT_CODES

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_version_is_one_line() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout == f"resight {version('resight')}\n"


def test_the_installed_version_is_that_of_the_project() -> None:
    """`make setup` installs the project again when pyproject.toml changes."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    assert version("resight") == project["version"]


def test_a_stopped_run_ends_with_the_exit_code_of_a_stopped_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped() -> None:
        raise StoppedError("resume it")

    monkeypatch.setattr(cli.main, "app", stopped)
    monkeypatch.setitem(EXIT_CODES, "stopped", 99)
    with pytest.raises(SystemExit) as ended:
        cli.main.main()
    assert ended.value.code == 99
    assert capsys.readouterr().err == "stopped: resume it\n"


def test_without_a_command_it_prints_its_help() -> None:
    result = CliRunner().invoke(app, [])
    assert "adapts itself to each new camera site" in result.output
    assert "--version" in result.output
