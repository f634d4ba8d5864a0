from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from models.foreign_batch import free_batch, shapes_to_know
from models.foreign_graph import ImageInput
from tests.support.foreign_onnx import FLOAT, reshape, shape

N = helper.make_node


def graph(nodes: list[Any], weights: dict[str, NDArray[Any]]) -> tuple[Any, ImageInput]:
    x = helper.make_tensor_value_info("x", FLOAT, [None, 3, 4, 2])
    y = helper.make_tensor_value_info("y", FLOAT, None)
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    made = helper.make_graph(nodes, "g", [x], [y], tensors)
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8), ImageInput.of(x)


def run(model: Any, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": x})[0])


def test_constant_shapes_go_to_any_batch_and_weights_keep_theirs() -> None:
    model, image = graph(
        [
            reshape("x", "flat", "s1", allowzero=1),
            reshape("gain", "row", "s2"),
            N("Mul", ["flat", "row"], ["scaled"]),
            N("Shape", ["scaled"], ["was"]),
            reshape("scaled", "y", "was"),
        ],
        {"s1": shape(1, 24), "s2": shape(1, 24), "gain": np.arange(24, dtype=np.float32)},
    )
    assert shapes_to_know(model, image) == ["flat"]
    freed, count = free_batch(model, image, {"flat": (1, 24)})
    assert count == 1
    x = np.random.default_rng(0).normal(0, 1, (3, 3, 4, 2)).astype(np.float32)
    np.testing.assert_allclose(run(freed, x), x.reshape(3, 24) * np.arange(24))
    assert "allowzero" in str(model), "the original stays as it is"


def test_constants_of_one_image_are_repeated_before_they_are_joined() -> None:
    model, image = graph(
        [N("Concat", ["token", "x", "token"], ["y"], axis=2)],
        {"token": np.full((1, 3, 1, 2), 7, np.float32)},
    )
    assert shapes_to_know(model, image) == ["token"]
    freed, count = free_batch(model, image, {"token": (1, 3, 1, 2)})
    assert count == 2
    x = np.random.default_rng(0).normal(0, 1, (3, 3, 4, 2)).astype(np.float32)
    token = np.full((3, 3, 1, 2), 7, np.float32)
    np.testing.assert_array_equal(run(freed, x), np.concatenate([token, x, token], 2))


def test_a_graph_without_constant_shapes_stays() -> None:
    model, image = graph([N("Flatten", ["x"], ["y"])], {})
    assert shapes_to_know(model, image) == []
    assert free_batch(model, image, {}) == (model, 0)
