from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

import onnx
import onnxruntime
import torch

from adapt.errors import ExportError, RunError
from adapt.runs.folder import Run
from adapt.runs.info import DataInfo
from adapt.workflows import export
from adapt.workflows.export import bundle_name, export_bundle, export_run
from adapt.workflows.import_weights import import_weights
from models.backbones.net import IMAGENET_MEAN, IMAGENET_STD, ReIDNet
from models.backbones.trunks import BACKBONES
from models.bundle import Bundle, check_self_test
from models.errors import BundleExistsError
from models.image import Preprocessing
from models.manifest import ModelCard
from models.self_test_images import make_self_test_images
from tests.support.graph_kinds import kinds, shorten
from tests.support.remembered_exports import remembered_exports
from tests.support.specs import import_spec
from tests.support.tiny_runs import info as run_info
from tests.support.tiny_runs import row

HEIGHT, WIDTH = 64, 32
EXPORTED = (
    *("resnet18", "resnet18_ibn_a", "resnet50_mmt", "resnet50_ibn_a_fastreid", "mobilenet_v2"),
    *("osnet_ibn_x1_0", "osnet_ain_x0_25"),
)
"""Backbones that have, together, every kind of block and every stem."""


@pytest.fixture(scope="module", autouse=True)
def one_export_of_each_network() -> Iterator[None]:
    with remembered_exports():
        yield


def pixels(count: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(5)
    return rng.integers(0, 256, (count, HEIGHT, WIDTH, 3)).astype(np.uint8)


def network_input(images: NDArray[np.uint8]) -> torch.Tensor:
    """The pre-processing of the training pipeline, written once more."""
    x = images.astype(np.float64) / 255
    x = (x - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    return torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32))


def lively(backbone: str, *, short: bool = False) -> ReIDNet:
    """Random scales and shifts in every norm and running statistics of real activations.

    A fresh network would hide faults: its norms do nothing, and one that is not calibrated gives
    one vector for every image.
    """
    torch.manual_seed(0)
    net = ReIDNet(backbone, classes=3)
    if short:
        shorten(net.backbone)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.InstanceNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.momentum = None  # the statistics are then exactly those of the one batch
    torch.nn.init.uniform_(net.neck.weight, 0.5, 1.5)
    images = np.concatenate([make_self_test_images(HEIGHT, WIDTH, 8), pixels(2)])
    with torch.no_grad():
        net.train()(network_input(images))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.momentum = 0.1  # as in a network that is read from a run: one export for both
    return net


def make_card(backbone: str, **changes: Any) -> ModelCard:
    fields: dict[str, Any] = {
        "name": "net",
        "version": "1",
        "backbone": backbone,
        "preprocessing": Preprocessing(height=HEIGHT, width=WIDTH),
        "method": "source",
        "created": datetime(2026, 1, 2, tzinfo=UTC),
    }
    return ModelCard(**(fields | changes))


CARD = make_card("resnet18", recipe="r", scores={"mAP": 0.3})


def embedder(bundle: Bundle) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(
        str(bundle.model_path), providers=["CPUExecutionProvider"]
    )
    return lambda images: np.asarray(session.run(["embeddings"], {"images": images})[0])


def test_exported_backbones_have_every_kind_of_block() -> None:
    """The others repeat these blocks, and with them their operators of ONNX."""
    with torch.device("meta"):
        found = {name: kinds(ReIDNet(name)) for name in BACKBONES}
        short = [ReIDNet(name) for name in EXPORTED[1:]]
    for net in short:
        shorten(net.backbone)
    assert frozenset().union(*found.values()) == found[EXPORTED[0]].union(*map(kinds, short))


@pytest.mark.parametrize("backbone", EXPORTED)
def test_onnx_equals_torch(backbone: str, net: ReIDNet, tmp_path: Path) -> None:
    """The first at its full depth, the others without the blocks that only repeat."""
    if backbone != net.backbone_name:
        net = lively(backbone, short=True)
    bundle = export_bundle(net, tmp_path / "bundle", card=make_card(backbone))
    embed, images = embedder(bundle), pixels(5)
    images[1] //= 2
    with torch.no_grad():
        expected = copy.deepcopy(net).eval().embed(network_input(images)).numpy()
    spread = np.linalg.norm(expected[:, None] - expected, axis=2)[np.triu_indices(5, 1)]
    assert spread.min() > 1e-2  # vectors all alike would prove nothing
    for batch in (1, 5):
        np.testing.assert_allclose(embed(images[:batch]), expected[:batch], atol=1e-4)
    bundle.verify()
    assert check_self_test(embed, bundle) < 1e-4
    assert bundle.manifest.dimension == net.dimension


@pytest.fixture(scope="module")
def net() -> ReIDNet:
    return lively("resnet18")


@pytest.fixture(scope="module")
def bundle(net: ReIDNet, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("export") / "bundle"
    return export_bundle(net, out, card=CARD)


def test_the_graph_is_one_plain_file(bundle: Bundle) -> None:
    model = onnx.load(bundle.model_path, load_external_data=False)
    onnx.checker.check_model(model)
    (image,), (embedding,) = model.graph.input, model.graph.output
    assert (image.name, embedding.name) == ("images", "embeddings")
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    dims = image.type.tensor_type.shape.dim
    assert dims[0].dim_param
    assert [dim.dim_value for dim in dims[1:]] == [HEIGHT, WIDTH, 3]
    assert embedding.type.tensor_type.shape.dim[1].dim_value == 512
    assert model.opset_import[0].version == 18
    assert not any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer)


def test_the_graph_tells_nothing_of_the_machine(bundle: Bundle) -> None:
    content = bundle.model_path.read_bytes()
    for trace in (b".py", str(Path.cwd()).encode(), b'File "'):
        assert trace not in content


def test_card_and_libraries_are_in_the_manifest(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert (manifest.recipe, manifest.scores) == ("r", {"mAP": 0.3})
    assert manifest.libraries["torch"] == torch.__version__
    assert {"onnx", "onnxruntime", "numpy"} <= set(manifest.libraries)


def test_the_callers_pictures_are_kept_and_the_network_is_left_as_it_was(
    net: ReIDNet, bundle: Bundle, tmp_path: Path
) -> None:
    net.train()
    before = copy.deepcopy(net.state_dict())
    random_state = torch.get_rng_state()
    own = pixels(3)
    own[1] //= 3
    own[2, 20:] = 250
    given = export_bundle(net, tmp_path / "bundle", card=CARD, sample_images=own)
    np.testing.assert_array_equal(given.self_test()[0], own)
    assert check_self_test(embedder(given), given) < 1e-4
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    # Without pictures from the caller, the bundle carries pictures without people.
    np.testing.assert_array_equal(bundle.self_test()[0], make_self_test_images(HEIGHT, WIDTH))


def test_an_onnx_file_that_differs_from_torch_is_not_written(
    net: ReIDNet, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_to_onnx", lambda *_: bundle.model_path.read_bytes())
    other = copy.deepcopy(net)
    with torch.no_grad():
        next(other.backbone.parameters()).neg_()
    with pytest.raises(ExportError, match=r"at batch 1 the ONNX file gives .* away from"):
        export_bundle(other, tmp_path / "bundle", card=CARD)
    assert not (tmp_path / "bundle").exists()


def test_a_diverged_network_is_not_written(net: ReIDNet, tmp_path: Path) -> None:
    broken = copy.deepcopy(net)
    torch.nn.init.constant_(broken.neck.weight, float("nan"))
    with pytest.raises(ExportError, match="diverged"):
        export_bundle(broken, tmp_path / "bundle", card=CARD)
    assert not (tmp_path / "bundle").exists()


def test_the_cards_backbone_must_be_the_networks(net: ReIDNet, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="resnet34"):
        export_bundle(net, tmp_path / "bundle", card=make_card("resnet34"))


def test_a_taken_target(net: ReIDNet, tmp_path: Path) -> None:
    with pytest.raises(BundleExistsError):
        export_bundle(net, tmp_path, card=CARD)


@pytest.mark.parametrize(
    "images", [pixels(1), pixels(3).astype(np.float32), pixels(3)[:, :32], pixels(3)[..., 0]]
)
def test_sample_images_that_do_not_fit(
    net: ReIDNet, tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    with pytest.raises(ExportError, match="sample images"):
        export_bundle(net, tmp_path / "bundle", card=CARD, sample_images=images)


@pytest.fixture
def run(net: ReIDNet, tmp_path: Path) -> Run:
    data = DataInfo(
        root="crops", role="target", fingerprint="f" * 64, crops=9, cameras=("a",), dropped={}
    )
    info = run_info(
        backbone="resnet18",
        preprocessing=Preprocessing(height=HEIGHT, width=WIDTH, decoder="exact-1"),
        data=(data, data.model_copy(update={"role": "validation", "fingerprint": "e" * 64})),
    )
    run = Run.create(tmp_path / "run", info)
    run.record(row(1, val_mAP=0.25, loss=1.0), net)
    run.finish(1.0)
    return run


def test_a_run_is_exported_with_its_origin(run: Run, net: ReIDNet, tmp_path: Path) -> None:
    bundle = export_run(run, tmp_path / "bundle", name="lobby", version="1.2")
    manifest = bundle.manifest
    assert bundle.reference == "lobby@1.2"
    assert (manifest.method, manifest.recipe, manifest.backbone) == ("mmt", "small", "resnet18")
    assert manifest.preprocessing.decoder == "exact-1"  # as its run did, whatever is new
    assert manifest.data == {"target 0": "f" * 64}
    assert manifest.scores == {"val_mAP": 0.25}
    images = pixels(2)
    with torch.no_grad():
        expected = copy.deepcopy(net).eval().embed(network_input(images)).numpy()
    np.testing.assert_allclose(embedder(bundle)(images), expected, atol=1e-4)


def test_an_imported_network_is_exported(run: Run, net: ReIDNet, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "theirs.pth")
    spec = import_spec(
        tmp_path / "theirs.pth", backbone="resnet18", preprocessing=run.info.preprocessing
    )
    imported = import_weights(spec, tmp_path / "imported")
    manifest = export_run(imported, tmp_path / "bundle", name="theirs", version="1").manifest
    assert (manifest.method, manifest.recipe, manifest.backbone) == ("import", "import", "resnet18")
    assert (manifest.data, manifest.scores) == ({}, {})


@pytest.mark.parametrize(
    ("name", "version", "option"), [("My Model", "1", "--name"), ("lobby", "v1", "--version")]
)
def test_a_name_that_cannot_be_one(
    run: Run, tmp_path: Path, name: str, version: str, option: str
) -> None:
    with pytest.raises(ExportError, match=f"give {option}"):
        export_run(run, tmp_path / "bundle", name=name, version=version)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("BUNDLE", "bundle"),
        ("Lobby-Model", "lobby-model"),
        ("Lobby  Nord (2)", "lobby-nord-2"),
        ("v1.2_b", "v1.2_b"),
        (".Hidden", "hidden"),
        ("Türe", "t-re"),
        ("x" * 99, "x" * 63),
        ("東京", ""),
    ],
)
def test_a_name_is_made_of_the_folders(tmp_path: Path, folder: str, name: str) -> None:
    assert bundle_name(tmp_path / folder) == name
    if name:
        assert make_card("resnet18", name=name).name == name


def test_a_killed_runs_network_claims_no_scores(run: Run, net: ReIDNet, tmp_path: Path) -> None:
    """Between figures and network the process may have crashed: the scores are of either."""
    run.info = run.info.model_copy(update={"state": "running"})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 2, "val_mAP": 0.3')
    bundle = export_run(run, tmp_path / "bundle", name="lobby", version="1")
    assert bundle.manifest.scores == {}


@pytest.mark.parametrize("left", ["", '{"round": 1, "val_m', None])
def test_lost_scores_are_not_taken_for_none(run: Run, tmp_path: Path, left: str | None) -> None:
    file = run.path / "metrics.jsonl"
    if left is None:
        file.unlink()
    else:
        file.write_text(left)
    with pytest.raises(RunError, match=r"metrics\.jsonl has no line of round 1, .*; restore it"):
        export_run(run, tmp_path / "lost", name="lobby", version="1")
    assert not (tmp_path / "lost").exists()


def test_a_network_whose_figures_are_not_needed_is_exported(run: Run, tmp_path: Path) -> None:
    """A run without a validation set has no scores to lose, and its network is sound."""
    file = run.path / "metrics.jsonl"
    file.write_text(json.dumps(row(1, val_mAP=0.25)) + "\ndamaged\n")
    bundle = export_run(run, tmp_path / "bundle", name="lobby", version="1")
    assert bundle.manifest.scores == {"val_mAP": 0.25}
    file.unlink()
    run.info = run.info.model_copy(update={"data": run.info.data[:1]})
    bundle = export_run(run, tmp_path / "unscored", name="lobby", version="1")
    assert bundle.manifest.scores == {}


def test_a_kept_round_is_exported_with_its_own_scores(
    run: Run, net: ReIDNet, tmp_path: Path
) -> None:
    keeps, forgets = (
        run.info.spec.model_copy(update={"keep_rounds": keep}) for keep in (True, False)
    )
    start = run.info.model_copy(update={"rounds": 0, "spec": keeps})
    other = Run.create(tmp_path / "kept", start)
    other.record(row(1, val_mAP=0.5), net)
    other.info = other.info.model_copy(update={"spec": forgets})
    later = copy.deepcopy(net)
    with torch.no_grad():
        next(later.backbone.parameters()).neg_()
    other.record(row(2, val_mAP=0.1), later)
    other.finish(1.0)
    images, bundles = pixels(2), []
    for number in (1, None):
        out = tmp_path / f"bundle-{number}"
        bundles.append(export_run(other, out, name="lobby", version="1", round_number=number))
    assert [b.manifest.scores for b in bundles] == [{"val_mAP": 0.5}, {"val_mAP": 0.1}]
    with torch.no_grad():
        expected = copy.deepcopy(net).eval().embed(network_input(images)).numpy()
    np.testing.assert_allclose(embedder(bundles[0])(images), expected, atol=1e-4)
    assert np.abs(embedder(bundles[1])(images) - expected).max() > 0.01
    with pytest.raises(RunError, match=r"kept: 1\); --keep-rounds"):
        export_run(other, tmp_path / "none", name="lobby", version="1", round_number=2)
