from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

import onnx
from numpy.typing import NDArray
from onnx import helper

from models.errors import WrapError
from models.foreign_file import opset_of, read_foreign, with_opset
from tests.support.foreign_onnx import (
    FLAT,
    FLOAT,
    HEIGHT,
    WIDTH,
    Foreign,
    embedder,
    original_vectors,
    wrapped,
)

N = helper.make_node


@pytest.fixture
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (3, HEIGHT, WIDTH, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no file"),
        (b"", "it is empty"),
        (b"garbage", "not an ONNX model"),
        (b"\x08\x04", "holds no graph"),
        (b"PK\x03\x04 and more", "a zip archive, as PyTorch saves checkpoints"),
        (b"\x80\x02}q", "a pickle, as PyTorch saved checkpoints"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"<?xml version='1.0'?><net>", "OpenVINO"),
        (b"\x1c\0\0\0TFL3", "a TensorFlow Lite model"),
        (b"ptrt\0\0\0\0\xd5", "a TensorRT engine; give the file that it was made from"),
    ],
)
def test_another_file_is_called_by_its_name(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WrapError, match=message) as raised:
        read_foreign(path)
    assert "model.onnx" in str(raised.value)


def test_a_folder_and_a_bundle_are_named(tmp_path: Path) -> None:
    FLAT.save(tmp_path / "model.onnx")
    with pytest.raises(WrapError, match=r"is a folder, not an ONNX file; it holds model\.onnx"):
        read_foreign(tmp_path)
    wrapped(tmp_path / "model.onnx", tmp_path / "bundle")
    with pytest.raises(WrapError, match="is a bundle already; add it with `resight models add"):
        read_foreign(tmp_path / "bundle")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = FLAT.save(tmp_path / "model.onnx")
    monkeypatch.setattr(onnx, "load", refuse)
    with pytest.raises(WrapError, match=r"model\.onnx cannot be read: Permission denied"):
        read_foreign(path)


def external(path: Path) -> Path:
    """A file as torch.onnx.export writes it: the weights in model.onnx.data."""
    onnx.save(
        onnx.load(FLAT.save(path)),
        path,
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=0,
    )
    return path


def test_weights_in_a_file_beside_come_along(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    path = external(tmp_path / "model.onnx")
    made = wrapped(path, tmp_path / "bundle")
    assert made.changes[0] == "the weights in model.onnx.data are in the bundle's model.onnx"
    expected = original_vectors(path, images)
    digest = hashlib.sha256((tmp_path / "model.onnx.data").read_bytes()).hexdigest()
    source = made.bundle.manifest.foreign
    assert source is not None
    assert source.weights == {"model.onnx.data": digest}
    (tmp_path / "model.onnx.data").unlink()
    np.testing.assert_allclose(embedder(made.bundle)(images), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "keeps its weights in model.onnx.data, missing in"), (b"short", "cannot be read")],
)
def test_missing_or_short_weights_are_named(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = external(tmp_path / "model.onnx")
    (tmp_path / "model.onnx.data").unlink()
    if content is not None:
        (tmp_path / "model.onnx.data").write_bytes(content)
    with pytest.raises(WrapError, match=message):
        read_foreign(path)


def test_functions_are_expanded(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    opsets = [helper.make_opsetid("", 17)]
    nodes = [N("Mul", ["a", "a"], ["b"]), N("Flatten", ["b"], ["c"])]
    function = helper.make_function("own", "Squared", ["a"], ["c"], nodes, opsets)
    path = Foreign([N("Squared", ["pooled"], ["out"], domain="own")]).save(
        tmp_path / "model.onnx", opset=17, ir_version=8
    )
    model = onnx.load(path)
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(model, path)
    made = wrapped(path, tmp_path / "bundle")
    assert made.changes[0] == "1 function of the graph expanded"
    expected = original_vectors(path, images)
    np.testing.assert_allclose(embedder(made.bundle)(images), expected, atol=1e-5)


def graph(nodes: list[Any], opset: int) -> Any:
    x, y = (helper.make_tensor_value_info(name, FLOAT, [1, 4]) for name in "xy")
    made = helper.make_graph(nodes, "g", [x], [y])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)])


def test_operator_sets() -> None:
    model = graph([N("Relu", ["x"], ["y"])], 8)
    assert opset_of(model) == 8
    assert opset_of(with_opset(model, 9)) == 9
    del model.opset_import[:]
    with pytest.raises(WrapError, match="names no operator set"):
        opset_of(model)


def test_an_operator_set_without_a_conversion() -> None:
    with pytest.raises(WrapError, match="from operator set 8 to 999"):
        with_opset(graph([N("Relu", ["x"], ["y"])], 8), 999)
