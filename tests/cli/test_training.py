"""Options of the training commands reach what they are for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from typer.testing import CliRunner  # noqa: E402

from adapt.errors import DataError  # noqa: E402
from adapt.runs.folder import Run  # noqa: E402
from adapt.runs.tensor_files import save_network  # noqa: E402
from cli.main import app  # noqa: E402
from models.errors import BundleError  # noqa: E402
from tests.support.tiny_model import write_tiny_bundle  # noqa: E402
from tests.support.tiny_sets import write_market  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")

SMALL = (
    *("--height", "32", "--width", "16", "--recipe", "source_small"),
    *("--set", "schedule.rounds=1", "--set", "schedule.iterations=1", "--set", "augment.pad=1"),
    *("--set", "batch.identities=3", "--set", "batch.instances=2"),
)


def resight(*arguments: object, told: bool = False) -> str:
    """What a command prints, or what it tells on stderr; its errors are raised."""
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stderr if told else done.stdout


def pretrain(source: Path, out: Path, *options: object) -> dict[str, Any]:
    """The run.json of a tiny run."""
    resight(
        *("pretrain", "--source", source, "--backbone", "mobilenet_v2", "--out", out),
        *(*SMALL, *options),
    )
    info: dict[str, Any] = json.loads((out / "run.json").read_text())
    return info


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_market(tmp_path_factory.mktemp("set") / "source")


def test_all_splits_are_learned_from(source: Path, tmp_path: Path) -> None:
    """6 people in training, 3 more in query and gallery, 4 crops of each in each folder."""
    (train,) = pretrain(source, tmp_path / "train")["data"]
    (everything,) = pretrain(source, tmp_path / "all", "--all-splits")["data"]
    assert (train["crops"], everything["crops"]) == (24, 48)


def test_interpolation_belongs_to_the_model(source: Path, tmp_path: Path) -> None:
    info = pretrain(source, tmp_path / "run", "--interpolation", "cubic")
    assert info["spec"]["preprocessing"]["interpolation"] == "cubic"


@pytest.mark.parametrize(("protocol", "cmc1"), [("market", 0.0), ("other-camera", 1.0)])
def test_protocol_of_ready_features(tmp_path: Path, protocol: str, cmc1: float) -> None:
    """Somebody else in the query's camera comes first, unless that camera is set aside."""
    np.savez(
        tmp_path / "f.npz",
        query_features=np.array([[1, 0]], np.float32),
        query_ids=[1],
        query_cameras=[1],
        gallery_features=np.array([[1, 0], [0.8, 0.6]], np.float32),
        gallery_ids=[2, 1],
        gallery_cameras=[1, 2],
    )
    printed = resight(
        "evaluate", "--features", tmp_path / "f.npz", "--protocol", protocol, "--json"
    )
    scores = json.loads(printed)
    assert (scores["protocol"], scores["cmc1"]) == (protocol, cmc1)


def test_what_is_left_out_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """1 of 4 people is in the gallery: its mAP is not one of four."""
    np.savez(
        tmp_path / "f.npz",
        query_features=np.eye(4, dtype=np.float32),
        query_ids=[0, 1, 2, 3],
        query_cameras=[1] * 4,
        gallery_features=np.tile(np.eye(4, dtype=np.float32)[:1], (30, 1)),
        gallery_ids=[0, *range(100, 129)],
        gallery_cameras=[2] * 30,
    )
    printed = resight("evaluate", "--features", tmp_path / "f.npz")
    assert printed.splitlines()[0] == (
        "protocol market: 1 of 4 queries (3 have no match in another camera), 30 in gallery"
    )
    assert "3 of 4 queries have no match in another camera, in no figure" in caplog.text
    told = json.loads(resight("evaluate", "--features", tmp_path / "f.npz", "--json"))
    assert (told["queries"], told["queries_asked"], told["queries_without_match"]) == (1, 4, 3)


def test_one_camera(tmp_path: Path) -> None:
    """A set with one camera has its own protocol, which the refusal of the others names."""
    root = write_market(tmp_path / "set", cameras=1)
    for folder in ("query", "bounding_box_test"):
        shutil.rmtree(root / folder)
    write_tiny_bundle(tmp_path / "bundle")
    asked = ("evaluate", "--model", tmp_path / "bundle", "--data", root)
    for protocol in ("market", "other-camera"):
        with pytest.raises(DataError, match=r"they show 1 camera; .* --protocol any-camera sets"):
            resight(*asked, "--protocol", protocol)
    printed = resight(*asked, "--protocol", "any-camera")
    assert printed.splitlines()[0] == "protocol any-camera: 12 queries, 12 in gallery"


def test_protocol_of_a_model(source: Path, tmp_path: Path) -> None:
    pretrain(source, tmp_path / "run")
    asked = ("market", "other-camera")
    found = [
        json.loads(
            resight(
                *("evaluate", "--model", tmp_path / "run", "--data", source),
                *("--protocol", protocol, "--json"),
            )
        )
        for protocol in asked
    ]
    assert tuple(scores["protocol"] for scores in found) == asked
    assert found[0]["mAP"] != found[1]["mAP"]


def test_adapt_with_source_crops(source: Path, tmp_path: Path) -> None:
    """6 people in training, 3 more in query and gallery; --all-splits is of --source here."""
    pretrain(source, tmp_path / "init")
    small = (
        *("--set", "schedule.rounds=1", "--set", "schedule.iterations=1", "--set", "augment.pad=1"),
        *("--set", "batch.identities=3", "--set", "clustering.algorithm=kmeans"),
        *("--set", "clustering.clusters=8", "--recipe", "daal_small"),
    )
    for splits, crops in (((), [24, 24]), (("--all-splits",), [24, 24, 48])):
        out = tmp_path / f"run{len(splits)}"
        resight(
            *("adapt", "--method", "daal", "--target", source / "bounding_box_train"),
            *("--init", tmp_path / "init", "--source", source, "--out", out, *small, *splits),
        )
        info = json.loads((out / "run.json").read_text())
        assert [d["crops"] for d in info["data"]] == crops
        assert info["attention"]


def test_a_plan_is_printed_and_nothing_written(source: Path, tmp_path: Path) -> None:
    pretrain(source, tmp_path / "init")
    printed = resight(
        *("adapt", "--method", "hli", "--target", source, "--init", tmp_path / "init"),
        *("--out", tmp_path / "run", "--recipe", "hli_small", "--plan"),
        *("--set", "batch.identities=3", "--set", "batch.instances=2"),
    )
    assert printed.startswith(f"hli on {source}: a plan, nothing is written\n  crops     24\n")
    assert "  memory    about " in printed
    assert [path.name for path in tmp_path.iterdir()] == ["init"]


def test_warnings_of_a_method_are_kept_and_counted(source: Path, tmp_path: Path) -> None:
    """One network brings all crops together, so it confirms nothing to the other one."""
    for seed in (1, 2):
        pretrain(source, tmp_path / f"init{seed}", "--seed", seed)
    collapsed = Run.open(tmp_path / "init2")
    net = collapsed.network()
    last = [m for m in net.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)][-1]
    with torch.no_grad():  # all distances become a thousandth; embeddings stay
        for values, factor in (
            (last.weight, 1e-3),
            (last.bias, 1e-3),
            (net.neck.running_mean, 1e-3),
            (net.neck.running_var, 1e-6),
        ):
            values.mul_(factor)
    save_network(net, collapsed.path / "model.safetensors")
    printed = resight(
        *("adapt", "--method", "nrmt", "--target", source, "--out", tmp_path / "run"),
        *("--init", tmp_path / "init1", "--init", collapsed.path, "--recipe", "nrmt_small"),
        *("--set", "schedule.rounds=2", "--set", "schedule.iterations=1", "--set", "augment.pad=1"),
        *("--set", "batch.identities=3", "--set", "batch.instances=2"),
        *("--set", "clustering.algorithm=kmeans", "--set", "clustering.clusters=9"),
        *("--set", "options.components=cc+sc", "--set", "options.thresholds=raw"),
        *("--set", "options.confidence=-0.1"),
        told=True,
    )
    first, second = Run.open(tmp_path / "run").metrics()
    assert first["warnings"] == []
    (warning,) = second["warnings"]
    assert warning.startswith("f kept 0 of its triplets")
    assert second["kept_1"] == 0 < second["kept_2"]
    assert "s, warnings in 1 of 2 rounds, the last one in 2:\n" in printed


def test_export_refuses_a_place_that_cannot_be_made_before_it_reads_the_run() -> None:
    with pytest.raises(BundleError, match=r"cannot make /proc/zz: .*; choose another --out"):
        resight("export", "--run", "/nowhere", "--out", "/proc/zz")
