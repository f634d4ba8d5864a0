"""resight report writes one page, where it is asked to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="runs are of torch networks")

from typer.testing import CliRunner

from adapt.errors import DataError, RunError
from adapt.runs.folder import Run, refuse_taken_run
from cli.main import app
from tests.support.tiny_runs import finished, info


def report(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["report", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_page_lies_in_the_run_by_default(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", kind="pretrain")
    said = report("--run", run.path)
    file = run.path / "report.html"
    assert said == f"{file}\n"
    assert file.read_text().startswith("<!doctype html>")


def test_options_reach_the_page(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    (tmp_path / "gate.json").write_text(json.dumps({"verdict": "promote", "reasons": ["yes"]}))
    out = tmp_path / "page.html"
    options = ("--gate", tmp_path / "gate.json", "--target", tmp_path / "no", "--out", out)
    report("--run", run.path, "--old", run.path, "--device", "cpu", *options)
    page = out.read_text()
    assert "Promote: the gate" in page
    assert f"{tmp_path / 'no'} is not a folder" in page
    assert not (run.path / "report.html").exists()


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", kind="pretrain")
    with pytest.raises(RunError, match="choose another --out"):
        report("--run", run.path, "--out", tmp_path / "no" / "page.html")
    with pytest.raises(RunError, match="is not a run folder"):
        report("--run", tmp_path / "none")
    with pytest.raises(DataError, match="cannot be read"):
        report("--run", run.path, "--gate", tmp_path / "none.json")


def test_a_page_replaces_nothing_but_a_page(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", kind="pretrain")
    (run.path / "rounds").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "link.html").symlink_to(run.path / "model.safetensors")
    before = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
    for out, told in (
        (run.path / "model.safetensors", "is not a page: give a file that ends in .html"),
        (run.path / "run.json", "is not a page: give a file that ends in .html"),
        (tmp_path / "notes.txt", "is not a page: give a file that ends in .html"),
        (run.path / "other.html", "leave out --out"),
        (run.path / "rounds" / "0001.html", "leave out --out"),
        (tmp_path / "link.html", "leave out --out"),
    ):
        with pytest.raises(RunError, match=told):
            report("--run", run.path, "--out", out)
    assert {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()} == before
    for out in (run.path / "report.html", tmp_path / "new.HTM", tmp_path / "page"):
        for _ in range(2 if out.suffix else 1):
            report("--run", run.path, "--out", out)


def test_a_page_does_not_keep_a_failed_runs_folder(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", info())
    run.finish(1.0, DataError("no"))
    report("--run", run.path)
    refuse_taken_run(run.path)
    Run.create(run.path, info()).release()
    assert not (run.path / "report.html").exists()
