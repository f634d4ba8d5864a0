from __future__ import annotations

import io
import logging
import os
import re
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli.gating
import cli.main
from adapt.errors import DataError, StoppedError
from cli.main import INTERRUPTED, app
from models.job_contract import EXIT_CODES
from tests.support.command_line import resight

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


def test_the_page_lists_the_exit_codes() -> None:
    page = (PYPROJECT.parent / "docs" / "cli.md").read_text()
    table = page.partition("| exit code | meaning |")[2].partition("\n\n")[0]
    told = set(map(int, re.findall(r"^\| (\d+) \|", table, re.MULTILINE)))
    done_failed_usage = {0, 1, 2}
    verdicts = set(cli.gating.EXIT_CODES.values())
    assert told == done_failed_usage | verdicts | set(EXIT_CODES.values()) | {INTERRUPTED}


def test_done_is_0_refused_is_1_and_wrong_usage_is_2(tmp_path: Path) -> None:
    assert resight("--version").returncode == 0
    refused = resight("models", "add", tmp_path)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("error: ")
    for wrong in (["nothing"], ["export"], ["export", "--runs", "x"], ["demo", "--seed", "one"]):
        done = resight(*wrong)
        assert (done.returncode, done.stdout) == (2, "")
        assert "Traceback" not in done.stderr


def test_ctrl_c_is_130_and_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cli.registry.default_registry", interrupted)
    done = resight("models", "list")
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, "", "interrupted\n")


def test_a_reader_that_leaves_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in `resight --version | true`."""
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(sys, "argv", ["resight", "--version"])
    monkeypatch.setattr(sys, "stdout", os.fdopen(write, "w"))
    with pytest.raises(SystemExit) as ended:
        cli.main.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_names_that_are_no_text_are_spelled_out(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding, write_through=True))
    monkeypatch.setattr(cli.main, "app", lambda: print(os.fsdecode(b"\xff.png")))
    cli.main.main()
    assert out.getvalue() == b"\\udcff.png\n"


def test_a_name_of_two_lines_leaves_an_error_and_the_log_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused() -> None:
        logging.getLogger("resight").info("left out %s", "a\nb\x1b[31m.jpg")
        raise DataError("a\nb.jpg cannot be read")

    monkeypatch.setattr("cli.registry.default_registry", refused)
    assert resight("models", "list").stderr.splitlines() == [
        r"left out a\nb\x1b[31m.jpg",
        r"error: a\nb.jpg cannot be read",
    ]


def test_without_a_command_it_prints_its_help() -> None:
    result = CliRunner().invoke(app, [])
    assert "adapts itself to each new camera site" in result.output
    assert "--version" in result.output
