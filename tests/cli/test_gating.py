"""`resight gate` as typed: exit codes, the table, the file, crops held back."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path
from tempfile import gettempdir

import pytest

pytest.importorskip("torch", reason="the gate needs adapt's packages")

from typer.testing import CliRunner, Result

from adapt.errors import ConfigError, DataError, RunError
from cli.gating import EXIT_CODES
from cli.main import app
from tests.support.tiny_model import write_tiny_bundle
from tests.support.tiny_sets import write_market

pytestmark = pytest.mark.usefixtures("thin")

ALIKE = -15000.0
"""Shift of the tiny model that brings all embeddings together."""


def resight(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("work")
    write_market(root / "site", persons=20, cameras=2, each=3)
    write_tiny_bundle(root / "one")
    write_tiny_bundle(root / "other", version="2")
    write_tiny_bundle(root / "alike", version="3", shift=ALIKE)
    return root


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [("one", "other", "hold"), ("one", "alike", "reject"), ("alike", "one", "promote")],
)
def test_verdicts(work: Path, tmp_path: Path, old: str, new: str, verdict: str) -> None:
    done = resight(
        *("gate", "--old", work / old, "--new", work / new, "--target", work / "site"),
        *("--json", tmp_path / "gate.json"),
    )
    assert done.exit_code == EXIT_CODES[verdict]
    assert f"verdict: {verdict}" in done.stdout
    assert "120 crops, 120 groups (tracks, and crops without a track)" in done.stdout
    written = json.loads((tmp_path / "gate.json").read_text())
    assert (written["verdict"], written["crops"]) == (verdict, 120)
    for name in written["proxies"]:
        assert name in done.stdout
    assert (written["unreadable"], written["not_held_back"]) == (0, 0)


def test_what_is_left_out_of_a_verdict_is_told(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work / "site", tmp_path / "site")
    for path in sorted((tmp_path / "site" / "bounding_box_train").iterdir())[:3]:
        path.write_bytes(b"not an image")
    done = resight(
        *("gate", "--old", work / "one", "--new", work / "other", "--target", tmp_path / "site"),
        *("--json", tmp_path / "gate.json"),
    )
    assert "117 crops of 120 (3 cannot be read), 117 groups" in done.stdout
    header, *rows = (line.split() for line in done.stdout.splitlines())
    assert "crops" in header
    assert any(row[0] == "silhouette" and "117" in row for row in rows)
    written = json.loads((tmp_path / "gate.json").read_text())
    assert (written["crops"], written["unreadable"]) == (117, 3)
    assert written["proxies"]["silhouette"]["measured"] == 117


def test_exit_codes_are_apart() -> None:
    assert sorted(EXIT_CODES.values()) == [0, 3, 4], "1 is an error, 2 wrong usage"


def test_only_what_was_held_back_is_judged(work: Path) -> None:
    small = (
        *("--set", "schedule.rounds=1", "--set", "schedule.iterations=1", "--set", "augment.pad=1"),
        *("--set", "batch.identities=3", "--set", "batch.instances=2"),
    )
    resight(
        *("pretrain", "--source", work / "site", "--backbone", "resnet18", "--out", work / "run"),
        *("--height", 32, "--width", 16, "--recipe", "source_small", *small),
    )
    resight(
        *("adapt", "--method", "mmt", "--target", work / "site", "--init", work / "run"),
        *("--out", work / "adapted", "--hold-back", 0.3, "--recipe", "mmt_small", *small),
        *("--set", "clustering.algorithm=kmeans", "--set", "clustering.clusters=4"),
    )
    info = json.loads((work / "adapted" / "run.json").read_text())
    (learned,) = (data["crops"] for data in info["data"] if data["role"] == "target")
    assert info["spec"]["hold_back"] == 0.3
    done = resight(
        *("gate", "--old", work / "run", "--new", work / "adapted", "--target", work / "site"),
        *("--hold-back", 0.3),
    )
    assert done.exit_code == EXIT_CODES["hold"]
    assert f"too few crops to judge by: {120 - learned}" in done.stdout
    assert 10 < 120 - learned < 60


def test_a_verdict_replaces_nothing_but_a_verdict(work: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "other.json").write_text('{"mine": 1}')
    (tmp_path / "text.txt").write_text('{"verdict": "hold"}')
    gate = ("gate", "--old", work / "one", "--new", work / "other", "--target", work / "site")
    for file in (*tmp_path.iterdir(), work / "one" / "manifest.json", work / "one" / "model.onnx"):
        before = file.read_bytes()
        with pytest.raises(DataError, match="is not a verdict"):
            resight(*gate, "--json", file)
        assert file.read_bytes() == before
    for content in ('{"verdict": "promote"}', ""):
        (tmp_path / "gate.json").write_text(content)
        assert resight(*gate, "--json", tmp_path / "gate.json").exit_code == EXIT_CODES["hold"]
        assert json.loads((tmp_path / "gate.json").read_text())["verdict"] == "hold"


def test_crops_lie_on_a_disk(work: Path, tmp_path: Path) -> None:
    """No file may be larger than a byte: then there is no room."""
    gate = ("gate", "--old", work / "one", "--new", work / "other", "--target", work / "site")
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, unlimited[1]))
    try:
        for where, file in ((tmp_path, ("--json", tmp_path / "g.json")), (gettempdir(), ())):
            with pytest.raises(RunError, match=rf"{where} has no room for .* make room there"):
                resight(*gate, *file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)


def test_bad_input(work: Path) -> None:
    gate = ("gate", "--old", work / "one", "--new", work / "other", "--target", work / "site")
    with pytest.raises(DataError, match="nowhere is not a folder"):
        resight(*gate, "--json", work / "nowhere" / "gate.json")
    with pytest.raises(ConfigError, match="share to hold back"):
        resight(*gate, "--hold-back", 20)
