"""Pre-training on tiny sets: what lies in the run folder, and what is refused."""

from __future__ import annotations

import hashlib
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from safetensors.torch import save_file  # noqa: E402

from adapt.config import (  # noqa: E402
    Augmentation,
    BatchShape,
    OptimizerSettings,
    Recipe,
    Schedule,
)
from adapt.errors import ConfigError, DataError, RunError  # noqa: E402
from adapt.methods.source import SourceOptions  # noqa: E402
from adapt.runs.folder import Run  # noqa: E402
from adapt.runs.info import Origin  # noqa: E402
from adapt.workflows.pretrain import pretrain  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402
from models.errors import BackboneError  # noqa: E402
from models.image import Preprocessing  # noqa: E402
from tests.support.specs import on_cpu, pretrain_spec  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")

SOURCE = Recipe(
    method="source",
    options=SourceOptions(),
    schedule=Schedule(rounds=2, iterations=2),
    batch=BatchShape(identities=3, instances=2),
    augment=Augmentation(pad=2),
)


def source_run(root: Path, out: Path, **changes: object) -> Run:
    settings: dict[str, Any] = {"backbone": "resnet18", "recipe": SOURCE, **changes}
    return pretrain(pretrain_spec(root, **settings), on_cpu(), out)


def weights(path: Path) -> bytes:
    return (path / "model.safetensors").read_bytes()


STILL = OptimizerSettings(lr=1e-12)
"""Weights stay where they start, so that the start can be seen in what is kept."""


def first_layer(net: ReIDNet) -> np.ndarray:
    return net.backbone.conv1.weight.detach().numpy()


def test_pretrain_leaves_a_complete_run_folder(
    market: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    root = market("source")
    (root / "bounding_box_train" / "Thumbs.db").write_text("the explorer was here")
    (root / "bounding_box_train" / "0001_c1s1_000009_00.png").write_text("not an image")
    run = Run.open(source_run(root, tmp_path / "run", validation=root).path)
    assert run.info.state == "finished"
    assert run.info.rounds == 2
    data, query, gallery = run.info.data
    assert (data.role, query.role, gallery.role) == ("source", "validation", "validation")
    assert (data.crops, query.crops, gallery.crops) == (24, 12, 12)
    assert query.fingerprint != gallery.fingerprint
    assert set(data.dropped) == {
        "bounding_box_train/0001_c1s1_000009_00.png",
        "bounding_box_train/Thumbs.db",
    }
    assert (data.unreadable, data.not_images) == (1, 1)
    assert "1 of 25 crops cannot be read" in caplog.text
    assert "left out bounding_box_train/Thumbs.db: file type .db is not an image" in caplog.text
    assert run.info.origin == Origin()
    assert run.info.spec.recipe.schedule.rounds == 2
    assert {"python", "torch", "numpy"} <= set(run.info.versions)
    rows = run.metrics()
    assert [row["round"] for row in rows] == [1, 2]
    assert 0 <= rows[-1]["val_mAP"] <= 1
    assert not run.network().training


def test_body_parts_are_found_once_and_leave_no_trace_in_the_network(
    market: Callable[..., Path], tmp_path: Path
) -> None:
    pytest.importorskip("onnx", reason="the parsing model is made by onnx")
    from tests.support.parsing_models import parsing_model

    path = parsing_model(tmp_path / "parser.onnx", takes="float", size=(24, 12))
    options = SourceOptions(
        parts="masks", parts_model=str(path), upper_classes=(0, 1), lower_classes=(2,)
    )
    root = market("source")
    recipe = SOURCE.model_copy(update={"options": options})
    run = Run.open(source_run(root, tmp_path / "run", recipe=recipe).path)
    assert run.info.origin.parser == hashlib.sha256(path.read_bytes()).hexdigest()
    assert all(row["loss_id_upper"] > 0 for row in run.metrics())
    plain = Run.open(source_run(root, tmp_path / "plain").path)
    assert plain.info.origin.parser == ""
    assert set(run.network().state_dict()) == set(plain.network().state_dict())
    assert weights(run.path) != weights(plain.path)


def test_a_parsing_model_that_is_not_there_is_noticed_before_crops_are_read(tmp_path: Path) -> None:
    options = SourceOptions(parts="masks", parts_model=str(tmp_path / "absent.onnx"))
    recipe = SOURCE.model_copy(update={"options": options})
    with pytest.raises(ConfigError, match=r"no file .*absent\.onnx"):
        source_run(tmp_path / "no crops either", tmp_path / "run", recipe=recipe)
    assert not (tmp_path / "run").exists()


def test_same_seed_same_weights(market: Callable[..., Path], tmp_path: Path) -> None:
    root = market("source")
    one, two = (source_run(root, tmp_path / name).path for name in ("a", "b"))
    other = source_run(root, tmp_path / "c", seed=2).path
    assert weights(one) == weights(two)
    assert weights(one) != weights(other)


def test_out_folder_in_use(market: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match="not empty"):
        source_run(market("source"), tmp_path / "full")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "precious"


def test_a_full_disk_is_an_error_of_ours(market: Callable[..., Path], tmp_path: Path) -> None:
    """No file may grow beyond 150 kB: run.json fits, a network does not."""
    root = market("source")
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, unlimited[1]))
    try:
        with pytest.raises(RunError, match=r"cannot write to .*run: File too large; make room"):
            source_run(root, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    info = Run.open(tmp_path / "run").info
    assert (info.state, info.rounds) == ("failed", 0)
    assert "make room" in info.error
    assert {e.name for e in (tmp_path / "run").iterdir()} == {"run.json"}
    assert source_run(root, tmp_path / "run").info.state == "finished", "there was no network yet"
    assert len(Run.open(tmp_path / "run").metrics()) == 2


def test_one_source_twice(market: Callable[..., Path], tmp_path: Path) -> None:
    root = market("source")
    (tmp_path / "link").symlink_to(root)
    with pytest.raises(DataError, match=r"--source .*link is the folder of --source .*source:"):
        source_run(root, tmp_path / "run", sources=(root, tmp_path / "link"))


def test_a_bad_validation_set_leaves_no_run_behind(
    market: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(DataError):
        source_run(market("source"), tmp_path / "run", validation=tmp_path)
    with pytest.raises(DataError, match=r"they show 1 camera; .*leave out --validation, and score"):
        source_run(market("one"), tmp_path / "run", validation=market("judged", cameras=1))
    assert not (tmp_path / "run").exists()


def test_pretraining_goes_on_from_a_run(market: Callable[..., Path], tmp_path: Path) -> None:
    init = source_run(market("source"), tmp_path / "init").path
    still = SOURCE.model_copy(update={"optimizer": OptimizerSettings(lr=1e-12, weight_decay=0)})
    run = source_run(market("site"), tmp_path / "on", weights=str(init), recipe=still)
    before, after = (dict(Run.open(path).network().named_parameters()) for path in (init, run.path))
    assert "neck.weight" in before
    for name, parameter in before.items():
        torch.testing.assert_close(after[name], parameter, msg=name)
    start = Run.open(run.path).info
    assert start.spec.weights == str(init)
    assert start.origin.weights == Run.open(init).network_hash()
    assert [Path(d.root).name for d in start.data] == ["site", "source"]
    with pytest.raises(RunError, match="is a resnet18, not a mobilenet_v2"):
        source_run(market("site"), tmp_path / "no", weights=str(init), backbone="mobilenet_v2")
    assert not (tmp_path / "no").exists()


def test_images_too_small_for_the_network_are_refused(
    market: Callable[..., Path], tmp_path: Path
) -> None:
    small = Preprocessing(height=16, width=8)
    with pytest.raises(BackboneError, match="images of 16x8 are too small for osnet_x0_25"):
        source_run(market("site"), tmp_path / "no", backbone="osnet_x0_25", preprocessing=small)
    assert not (tmp_path / "no").exists()


def test_weights_are_where_pretraining_starts(market: Callable[..., Path], tmp_path: Path) -> None:
    torch.manual_seed(99)
    given = ReIDNet("resnet18")
    save_file(given.backbone.state_dict(), tmp_path / "imagenet.safetensors")
    run = source_run(
        market("source"),
        tmp_path / "run",
        weights=str(tmp_path / "imagenet.safetensors"),
        recipe=SOURCE.model_copy(update={"optimizer": STILL}),
    )
    np.testing.assert_allclose(first_layer(run.network()), first_layer(given), atol=1e-7)
    start = Run.open(run.path).info
    assert start.spec.weights == str(tmp_path / "imagenet.safetensors")
    content = (tmp_path / "imagenet.safetensors").read_bytes()
    assert start.origin.weights == hashlib.sha256(content).hexdigest()
