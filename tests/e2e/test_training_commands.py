"""The training commands as typed: a source and a site of one-color people, in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch")

from tests.support.command_line import resight

pytestmark = pytest.mark.usefixtures("thin")

SMALL = ["--set", "schedule.rounds=1", "--set", "schedule.iterations=4"]
BATCH = [
    "--set",
    "batch.identities=3",
    "--set",
    "batch.instances=2",
    "--set",
    "batch.ghost=0",
    "--set",
    "augment.pad=1",
]


def write_people(folder: Path, people: range, seed: int) -> None:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for person in people:
        color = np.random.default_rng(person).integers(0, 256, 3)
        for camera in (1, 2):
            for frame in range(2):
                image = np.clip(color + rng.normal(0, 10, (40, 20, 3)), 0, 255).astype(np.uint8)
                name = f"{person:04d}_c{camera}s1_{frame:06d}_00.png"
                assert cv2.imwrite(str(folder / name), image)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("work")
    for name, seed in (("source", 1), ("site", 2)):
        write_people(root / name / "bounding_box_train", range(1, 9), seed)
        write_people(root / name / "query", range(20, 24), seed + 10)
        write_people(root / name / "bounding_box_test", range(20, 24), seed + 20)
    (root / "site" / "bounding_box_train" / "0001_c1s1_000099_00.png").write_bytes(b"broken")
    return root


def test_pretrain_adapt_export_evaluate(work: Path) -> None:
    size = ["--height", 32, "--width", 16]
    for seed in (1, 2):
        done = resight(
            *("pretrain", "--source", work / "source", "--backbone", "resnet18", *size),
            *("--out", work / f"run{seed}", "--seed", seed, "--recipe", "source_small"),
            *(*SMALL, *BATCH),
        )
        assert done.returncode == 0, done.stderr
    done = resight(
        *("adapt", "--method", "mmt", "--target", work / "site", "--out", work / "adapted"),
        *("--init", work / "run1", "--init", work / "run2", *SMALL, *BATCH),
        *("--set", "clustering.clusters=4", "--validation", work / "site"),
    )
    assert done.returncode == 0, done.stderr
    assert "0001_c1s1_000099_00.png" in done.stderr, "a broken crop is named"
    done = resight("export", "--run", work / "adapted", "--out", work / "BUNDLE")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((work / "BUNDLE" / "manifest.json").read_text())
    assert manifest["name"] == "bundle"
    assert manifest["recipe"].startswith("mmt (schedule.rounds=1, schedule.iterations=4, ")
    scores = []
    for model in ("adapted", "BUNDLE"):
        done = resight("evaluate", "--model", work / model, "--data", work / "site", "--json")
        assert done.returncode == 0, done.stderr
        scores.append(json.loads(done.stdout))
    network, onnx = scores
    assert set(network) == {
        *("mAP", "cmc1", "cmc5", "cmc10", "queries", "gallery", "protocol", "gallery_ranked_min"),
        *(f"queries_{what}" for what in ("asked", "without_match", *LEFT_OUT)),
        *(f"gallery_{what}" for what in LEFT_OUT),
    }
    assert network["queries"] == network["gallery"] == 16
    assert onnx["mAP"] == pytest.approx(network["mAP"], abs=1e-3)


LEFT_OUT = ("junk", "unreadable", "unknown_camera")


def features(path: Path, **changes: object) -> Path:
    eye = np.eye(4, dtype=np.float32)
    arrays: dict[str, object] = {
        "query_features": eye,
        "query_ids": [1, 2, 3, 4],
        "query_cameras": [1, 1, 1, 1],
        "gallery_features": eye[[0, 1, 3, 2]],
        "gallery_ids": [1, 2, 3, 4],
        "gallery_cameras": [2, 2, 2, 2],
        **changes,
    }
    given: dict[str, Any] = {k: np.asarray(v) for k, v in arrays.items() if v is not None}
    np.savez(path, **given)
    return path


def test_evaluate_features_by_hand(tmp_path: Path) -> None:
    """Two queries find their match first, two at a rank set by the order of equal answers."""
    done = resight("evaluate", "--features", features(tmp_path / "f.npz"), "--json")
    scores = json.loads(done.stdout)
    assert scores["cmc1"] == 0.5
    assert scores["protocol"] == "market"
    assert scores["mAP"] == pytest.approx((1 + 1 + 1 / 4 + 1 / 4) / 4, abs=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query_features": np.full((4, 4), np.nan)}, "NaN"),
        ({"gallery_ids": [1, 2]}, "gallery"),
        ({"gallery_cameras": None}, "gallery_cameras"),
        ({"gallery_features": np.ones((4, 3))}, "dimensions"),
    ],
)
def test_bad_feature_files_are_one_line(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    done = resight("evaluate", "--features", features(tmp_path / "f.npz", **changes))
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["evaluate"], 2, "--features"),
        (["adapt", "--method", "mtm", "--target", ".", "--init", "x", "--out", "y"], 1, "mmt"),
        (["evaluate", "--model", "absent", "--data", "."], 1, "absent"),
        (["pretrain", "--source", ".", "--backbone", "resnet9", "--out", "y"], 1, "resnet"),
        (["export", "--run", "absent", "--out", "y"], 1, "is not a run folder"),
    ],
)
def test_wrong_arguments(arguments: list[str], code: int, message: str) -> None:
    done = resight(*arguments)
    assert done.returncode == code
    assert message in done.stderr
