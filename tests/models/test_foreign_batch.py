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
    assert shapes_to_know(model, image) == ["x", "flat"]
    freed, count = free_batch(model, image, {"x": (1, 3, 4, 2), "flat": (1, 24)})
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


def test_attention_on_tokens_first_is_freed_where_its_batch_is() -> None:
    """(B,3,8) -> (8,B,3) -> linear on (8 x B,3) -> (8,B,3) -> (8, B x 3 heads, 1) and back."""
    weights: dict[str, NDArray[Any]] = {
        "s0": shape(1, 3, 8),
        "s1": shape(8, 3),
        "s2": shape(8, 1, 3),
        "s3": shape(8, 3, 1),
        "fc": np.random.default_rng(1).normal(0, 1, (3, 3)).astype(np.float32),
    }
    nodes = [
        reshape("x", "channels", "s0"),
        N("Transpose", ["channels"], ["tokens"], perm=[2, 0, 1]),
        reshape("tokens", "rows", "s1"),
        N("MatMul", ["rows", "fc"], ["mixed"]),
        reshape("mixed", "again", "s2"),
        reshape("again", "heads", "s3"),
        N("Softmax", ["heads"], ["soft"], axis=0),
        reshape("soft", "joined", "s2"),
        N("Transpose", ["joined"], ["y"], perm=[1, 0, 2]),
    ]
    model, image = graph(nodes, weights)
    shapes = {name: tuple(weights[by].tolist()) for name, by in (
        ("channels", "s0"), ("rows", "s1"), ("again", "s2"), ("heads", "s3"), ("joined", "s2"),
    )}  # fmt: skip
    shapes |= {"x": (1, 3, 4, 2), "tokens": (8, 1, 3), "mixed": (8, 3), "soft": (8, 3, 1)}
    assert set(shapes_to_know(model, image)) == shapes.keys()
    freed, count = free_batch(model, image, shapes)
    assert count == 5
    x = np.random.default_rng(0).normal(0, 1, (3, 3, 4, 2)).astype(np.float32)
    alone = np.concatenate([run(model, x[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(run(freed, x), alone, atol=1e-6)


def test_a_constant_of_several_images_gives_its_first_row() -> None:
    model, _ = graph(
        [N("Concat", ["token", "x"], ["y"], axis=2)],
        {"token": np.full((5, 3, 1, 2), 7, np.float32)},
    )
    image = ImageInput.of(helper.make_tensor_value_info("x", FLOAT, [5, 3, 4, 2]))
    freed, count = free_batch(model, image, {"token": (5, 3, 1, 2)})
    assert count == 1
    x = np.zeros((2, 3, 4, 2), np.float32)
    assert run(freed, x).shape == (2, 3, 5, 2)
    np.testing.assert_array_equal(run(freed, x)[:, :, 0], 7)
