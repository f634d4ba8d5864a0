"""resight runs: tables for people, JSON for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="runs are of torch networks")

from typer.testing import CliRunner

from adapt.runs.info import Origin
from cli.main import app
from models.image import DECODER
from tests.support.tiny_runs import finished, info


def resight(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    finished(tmp_path / "a")
    finished(tmp_path / "deep" / "b", seed=2)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    return tmp_path


def test_list(folder: Path) -> None:
    header, *rows = resight("runs", "list", folder).splitlines()
    assert header.split()[:2] == ["run", "state"]
    assert [row.split()[:2] for row in rows] == [
        ["a", "finished"],
        ["broken", "damaged"],
        ["deep/b", "finished"],
    ]
    listed = json.loads(resight("runs", "list", folder, "--json"))
    assert [each["state"] for each in listed] == ["finished", "damaged", "finished"]
    assert listed[0]["started"] == info().started.isoformat()


def test_show(folder: Path) -> None:
    shown = resight("runs", "show", folder / "a")
    for part in ("finished", "mobilenet_v2, 32x16", "1/3", "4 crops", "warning in the"):
        assert part in shown
    assert (
        json.loads(resight("runs", "show", folder / "a", "--json"))["last_round"]["clusters"] == 7
    )


def test_show_says_which_crops_were_read(folder: Path) -> None:
    assert "held back" not in resight("runs", "show", folder / "a")
    run = finished(folder / "c", camera_pattern="c[0-9]", hold_back=0.2).path
    shown = [line.split(maxsplit=2) for line in resight("runs", "show", run).splitlines()]
    assert ["camera", "pattern", "c[0-9]"] in shown
    assert ["held", "back", "20% of the crops"] in shown
    again = json.loads(resight("runs", "show", run, "--json"))
    assert (again["camera_pattern"], again["hold_back"]) == ("c[0-9]", 0.2)


def test_show_names_the_weights_and_the_decoder(folder: Path) -> None:
    assert "weights" not in resight("runs", "show", folder / "a")
    digest = "0123456789abcdef" * 4
    start = {"kind": "pretrain", "weights": "/files/w.pth", "origin": Origin(weights=digest)}
    run = finished(folder / "c", **start).path
    shown = [line.split() for line in resight("runs", "show", run).splitlines()]
    for row in (["decoder", DECODER], ["weights", "/files/w.pth"], ["sha256", digest[:12]]):
        assert row in shown
    again = json.loads(resight("runs", "show", run, "--json"))
    assert (again["weights"], again["origin"]["weights"]) == ("/files/w.pth", digest)
    assert again["preprocessing"]["decoder"] == DECODER


def test_compare(folder: Path) -> None:
    shown = resight("runs", "compare", folder / "a", folder / "deep" / "b")
    assert "setting that differs  a  b\nseed                  1  2\n" in shown
    assert "target crops: the same" in shown
    again = json.loads(resight("runs", "compare", folder / "a", folder / "deep" / "b", "--json"))
    assert again["settings"] == {"seed": [1, 2]}


def test_runs_of_one_name_are_told_apart_by_their_folders(folder: Path) -> None:
    finished(folder / "other" / "a")
    shown = resight("runs", "compare", folder / "a", folder / "other" / "a")
    assert "setting that differs: none" in shown
    assert str(folder / "other" / "a") in shown
