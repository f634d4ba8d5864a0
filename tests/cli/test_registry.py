from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest
import typer
from onnx import TensorProto, helper
from typer.testing import CliRunner, Result

import cli.serving
from models.bundle import Bundle
from models.errors import BundleHashMismatchError, ModelNotFoundError, RegistryError
from models.job_contract import GateVerdict
from models.registry import Registry
from service.embedding.engine import OnnxEngine
from tests.support.tiny_model import write_tiny_bundle


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    cli.serving.register(app)
    return app


def run(app: typer.Typer, registry: Path, *arguments: object) -> Result:
    return CliRunner().invoke(
        app, ["models", *map(str, arguments)], env={"RESIGHT_REGISTRY": str(registry)}
    )


def test_a_registry_that_cannot_be_made_is_named(app: typer.Typer, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "b")
    error = run(app, Path("/proc/zz"), "add", bundle.path).exception
    assert isinstance(error, RegistryError)
    assert "cannot write to the registry /proc/zz: No such file" in str(error)


def test_add_list_verify(app: typer.Typer, tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    nothing = run(app, registry, "list")
    assert nothing.stdout == ""
    assert "no models in" in nothing.stderr
    for version in ("1", "2"):
        bundle = write_tiny_bundle(tmp_path / version, version=version)
        added = run(app, registry, "add", bundle.path)
        assert added.exit_code == 0
        assert added.stdout == f"tiny@{version}\n"
        assert added.stderr == f"added to {registry / 'tiny' / version}:\n"
    listed = json.loads(run(app, registry, "list", "--json").stdout)
    assert [(m["name"], m["version"], m["dimension"]) for m in listed] == [
        ("tiny", "1", 24),
        ("tiny", "2", 24),
    ]
    assert {m["decoder"] for m in listed} == {"exact-2"}
    lines = run(app, registry, "list").stdout.splitlines()
    assert lines[0].split() == ["model", "dimension", "input", "backbone", "method", "created"]
    assert lines[2].split()[:4] == ["tiny@2", "24", "32x16", "block_means"]
    verified = run(app, registry, "verify", "tiny")
    assert verified.stdout == "tiny@2\n"
    assert "its files match their hashes, and its self-test passed" in verified.stderr
    report = b'{"verdict": "promote", "against": "tiny@2", "reasons": []}'
    judged = write_tiny_bundle(tmp_path / "3", version="3")
    Registry(registry).add(judged.path, verdict=report)
    lines = run(app, registry, "list").stdout.splitlines()
    assert (lines[0].split()[-1], lines[3].split()[-1]) == ("verdict", "promote")
    listed = json.loads(run(app, registry, "list", "--json").stdout)
    assert [m["verdict"] for m in listed] == ["", "", "promote"]
    run(app, registry, "verify", "tiny@3")
    gate = registry / "tiny" / "3.gate.json"
    gate.write_text('{"verdict": "unjudged", "reasons": ["the gate crashed"]}')
    told = run(app, registry, "list")
    assert told.stdout.splitlines()[3].split()[-1] == "unjudged"
    assert told.stderr == "unjudged: verdict on tiny@3: the gate crashed\n"
    gate.write_bytes(report[:20])
    told = run(app, registry, "list")
    assert told.stdout.splitlines()[3].split()[-1] == "damaged"
    assert f"damaged: verdict on tiny@3: {registry / 'tiny' / '3.gate.json'}" in told.stderr
    shutil.rmtree(registry / "tiny" / "3")
    damaged = registry / "tiny" / "2" / "model.onnx"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert isinstance(run(app, registry, "verify", "tiny").exception, BundleHashMismatchError)
    assert isinstance(run(app, registry, "verify", "other").exception, ModelNotFoundError)


def test_add_takes_the_verdict_along(app: typer.Typer, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    (tmp_path / "bundle.gate.json").write_text('{"verdict": "reject"}')
    added = run(app, tmp_path / "registry", "add", bundle.path)
    assert added.stderr.splitlines()[0] == "the gate's verdict on it: reject"
    (listed,) = json.loads(run(app, tmp_path / "registry", "list", "--json").stdout)
    assert listed["verdict"] == "reject"


def test_a_file_in_place_of_a_models_folder_is_no_model(app: typer.Typer, tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    run(app, registry, "add", write_tiny_bundle(tmp_path / "1").path)
    (registry / "lobby").write_text("notes")
    verified = run(app, registry, "verify", "lobby")
    assert isinstance(verified.exception, ModelNotFoundError)
    assert "no model lobby in" in str(verified.exception)


def test_list_tells_what_is_no_model(app: typer.Typer, tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    run(app, registry, "add", write_tiny_bundle(tmp_path / "1").path)
    for name in ("lobby", "notes"):
        (registry / name).write_text("notes")
    for arguments in (["list"], ["list", "--json"]):
        listed = run(app, registry, *arguments)
        assert listed.stderr == "left out lobby, notes: a file, and models are folders\n"
    assert [model["name"] for model in json.loads(listed.stdout)] == ["tiny"]


def test_each_verdict_is_read_once(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = tmp_path / "registry"
    for version in ("1", "2"):
        bundle = write_tiny_bundle(tmp_path / version, version=version)
        Registry(registry).add(bundle.path, verdict=b'{"verdict": "hold"}')
    read = GateVerdict.read
    files: list[str] = []

    def counted(file: Path) -> GateVerdict:
        files.append(file.name)
        return read(file)

    monkeypatch.setattr(GateVerdict, "read", counted)
    for arguments in (["list"], ["list", "--json"]):
        files.clear()
        run(app, registry, *arguments)
        assert files == ["1.gate.json", "2.gate.json"]


def test_list_names_a_damaged_model_and_lists_the_others(app: typer.Typer, tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    for version in ("1", "2"):
        bundle = write_tiny_bundle(tmp_path / version, version=version)
        run(app, registry, "add", bundle.path)
    (registry / "tiny" / "1" / "manifest.json").write_text("{")
    listed = run(app, registry, "list")
    assert listed.exit_code == 0
    lines = listed.stdout.splitlines()
    assert lines[0].split()[-1] == "state"
    assert [line.split()[0] for line in lines[1:]] == ["tiny@2", "tiny@1"]
    assert lines[2].split()[-1] == "damaged"
    assert "damaged: tiny@1: " in listed.stderr
    good, bad = json.loads(run(app, registry, "list", "--json").stdout)
    assert (good["version"], bad["version"], set(bad)) == ("2", "1", {"name", "version", "error"})


def pooling_model(path: Path, batch: str | int = "n") -> Path:
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[8, 8], strides=[8, 8]),
            helper.make_node("Flatten", ["p"], ["y"]),
        ],
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 16, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 6])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def test_wrap(app: typer.Typer, tmp_path: Path) -> None:
    foreign = pooling_model(tmp_path / "foreign.onnx")
    done = run(
        app, tmp_path / "registry", "wrap", foreign, "--out", tmp_path / "bundle",
        "--name", "foreign", "--mean", 100, 110, 120, "--std", 50, 50, 50,
        "--channel-order", "bgr",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{tmp_path / 'bundle'}\n"
    assert done.stderr == f"wrapped {foreign} as foreign@1 (6-d):\n"
    engine = OnnxEngine.load(Bundle.open(tmp_path / "bundle"), provider="cpu", threads=1)
    assert (engine.model.reference, engine.model.dimension) == ("foreign@1", 6)


def test_wrap_says_what_it_changed(app: typer.Typer, tmp_path: Path) -> None:
    foreign = pooling_model(tmp_path / "foreign.onnx", batch=1)
    arguments = ["wrap", foreign, "--out", tmp_path / "bundle", "--name", "foreign"]
    done = run(app, tmp_path / "registry", *arguments)
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines()[:-1] == ["changed: the fixed batch of 1 made open"]


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (["--mean", "0.485,0.456,0.406"], ["--std", "0.229,0.224,0.225"]),
        (["--mean=0.485,0.456,0.406"], ["--std=0.229, 0.224, 0.225"]),
        (["--mean", "0.485, 0.456, 0.406"], ["--std", "0.229", "0.224", "0.225"]),
        (["--mean", "0.485,", "0.456,", "0.406"], ["--std", "0.229,", "0.224,", "0.225"]),
    ],
)
def test_wrap_takes_numbers_with_commas(
    mean: list[str], std: list[str], app: typer.Typer, tmp_path: Path
) -> None:
    foreign = pooling_model(tmp_path / "foreign.onnx")
    done = run(
        app, tmp_path / "registry", "wrap", foreign, *mean, "--out", tmp_path / "bundle", *std,
        "--name", "foreign", "--scale", "0.00392156862745098",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    source = Bundle.open(tmp_path / "bundle").manifest.foreign
    assert source is not None
    assert (source.mean, source.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("mean", ["0.485,0.456", "0.485,0.456,red"])
def test_wrap_refuses_other_than_three_numbers(mean: str, app: typer.Typer, tmp_path: Path) -> None:
    foreign = pooling_model(tmp_path / "foreign.onnx")
    arguments = ["wrap", foreign, "--out", tmp_path / "bundle", "--name", "foreign"]
    done = run(app, tmp_path / "registry", *arguments, "--mean", mean)
    assert done.exit_code == 2
    assert "--mean" in done.output
