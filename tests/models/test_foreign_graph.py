from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from models.errors import WrapError
from models.foreign_graph import (
    ImageInput,
    InputConvention,
    image_inputs,
    reduced_to,
    spell_out_mvn,
    wrap_graph,
)

FLOAT = onnx.TensorProto.FLOAT


def graph_model(
    nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: Any = (), opset: int = 13
) -> Any:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model: Any, feeds: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def test_convention_by_hand() -> None:
    images = np.array([10, 20, 30], np.uint8).reshape(1, 1, 1, 3)
    same = InputConvention().apply(images)
    assert same.ravel().tolist() == [10, 20, 30]
    assert same.shape == (1, 3, 1, 1)
    assert same.dtype == np.float32
    bgr = InputConvention(
        channel_order="bgr", scale=0.5, mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0)
    ).apply(images)
    assert bgr.ravel().tolist() == [(15 - 1) / 2, (10 - 2) / 4, (5 - 3) / 8]


@pytest.mark.parametrize(
    "fields",
    [
        {"channel_order": "gbr"},
        {"std": (1.0, 0.0, 1.0)},
        {"scale": 0.0},
        {"scale": float("nan")},
        {"mean": (1.0, 2.0)},
        {"mean": (1.0, 2.0, float("inf"))},
    ],
)
def test_impossible_conventions(fields: dict[str, Any]) -> None:
    with pytest.raises(WrapError):
        InputConvention(**fields)


IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
IMAGENET_255: dict[str, Any] = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": 0.01735207, "mean": IMAGENET_255["mean"]}, r"123.675 is outside .* 0 to 4\.42"),
        ({"scale": 1 / 255, **IMAGENET_255}, r"123.675 is outside .* 0 to 1;"),
        ({"mean": (-104.0, -117.0, -123.0)}, r"-104 is outside .* 0 to 255;"),
        (IMAGENET, r"pixels would reach 1136 .* give the scale 0\.00392157 for"),
    ],
    ids=["DeepStream", "two scales", "minus", "no scale"],
)
def test_figures_of_another_scale_are_refused(fields: dict[str, Any], message: str) -> None:
    """They give vectors that hardly differ from image to image, and no error otherwise."""
    with pytest.raises(WrapError, match=message):
        InputConvention(**fields)


def test_one_convention_in_several_spellings() -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    of_pixels = InputConvention(**IMAGENET_255).apply(images)
    np.testing.assert_allclose(
        InputConvention(scale=1 / 255, **IMAGENET).apply(images), of_pixels, atol=1e-5
    )
    factor = 0.01735207  # DeepStream's net-scale-factor: one for all channels
    deepstream = InputConvention(mean=IMAGENET_255["mean"], std=(1 / factor,) * 3).apply(images)
    by_hand = factor * (images - np.array(IMAGENET_255["mean"])).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(deepstream, by_hand, atol=1e-5)
    minus_one_to_one = InputConvention(scale=2 / 255, mean=(1.0, 1.0, 1.0)).apply(images)
    assert (minus_one_to_one.min(), minus_one_to_one.max()) == (-1, 1)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("opset", [9, 13, 18, 20])
def test_the_wrapped_graph_does_what_the_convention_says(order: Any, opset: int) -> None:
    """With a foreign graph that only flattens, the wrapped one is convention + normalization."""
    x = helper.make_tensor_value_info("data", FLOAT, [1, 3, 4, 2])
    y = helper.make_tensor_value_info("out", FLOAT, [1, 24])
    model = graph_model([helper.make_node("Flatten", ["data"], ["out"])], [x], [y], opset=opset)
    convention = InputConvention(
        channel_order=order, scale=1 / 255, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)
    )
    image = ImageInput.of(model.graph.input[0])
    wrapped = wrap_graph(
        model, image, convention, height=4, width=2, dimension=24, one_by_one=False
    )
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 2, 3)).astype(np.uint8)
    expected = convention.apply(images).reshape(3, 24)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    for batch in (1, 3):
        got = run(wrapped, {"images": images[:batch]})
        np.testing.assert_allclose(got, expected[:batch], atol=1e-6)


def test_names_of_the_foreign_graph_cannot_collide() -> None:
    x = helper.make_tensor_value_info("images", FLOAT, [1, 3, 4, 2])
    y = helper.make_tensor_value_info("embeddings", FLOAT, [1, 24])
    model = graph_model([helper.make_node("Flatten", ["images"], ["embeddings"])], [x], [y])
    image = ImageInput.of(model.graph.input[0])
    wrapped = wrap_graph(
        model, image, InputConvention(), height=4, width=2, dimension=24, one_by_one=False
    )
    images = np.full((2, 4, 2, 3), 7, np.uint8)
    np.testing.assert_allclose(run(wrapped, {"images": images}), 24**-0.5, atol=1e-6)


def mvn_model(opset: int, axes: list[int] | None) -> Any:
    x = helper.make_tensor_value_info("x", FLOAT, [2, 3, 4, 2])
    y = helper.make_tensor_value_info("y", FLOAT, [2, 3, 4, 2])
    attributes: dict[str, Any] = {} if axes is None else {"axes": axes}
    node = helper.make_node("MeanVarianceNormalization", ["x"], ["y"], **attributes)
    return graph_model([node], [x], [y], opset=opset)


@pytest.mark.parametrize("opset", [9, 13, 18])
@pytest.mark.parametrize("axes", [None, [2, 3]])
def test_mvn_is_spelled_out_as_the_standard_defines_it(opset: int, axes: list[int] | None) -> None:
    x = np.random.default_rng(0).normal(3, 2, (2, 3, 4, 2)).astype(np.float32)
    model = mvn_model(opset, axes)
    spelled = spell_out_mvn(model)
    assert "MeanVarianceNormalization" not in {node.op_type for node in spelled.graph.node}
    over = tuple(axes or [0, 2, 3])
    mean, std = x.mean(over, keepdims=True), x.std(over, keepdims=True)
    got = run(spelled, {"x": x})
    np.testing.assert_allclose(got, (x - mean) / std, atol=1e-5)
    np.testing.assert_allclose(got, run(model, {"x": x}), atol=1e-5)
    reference = np.asarray(next(iter(ReferenceEvaluator(model).run(None, {"x": x}))))
    np.testing.assert_allclose(got, reference, atol=1e-5)


def test_mvn_inside_a_graph_equals_the_reference_also_where_a_group_is_constant() -> None:
    """Two of them in a row, with weights between; an image with a dead channel."""
    x = helper.make_tensor_value_info("x", FLOAT, [2, 3, 4, 2])
    z = helper.make_tensor_value_info("z", FLOAT, [2, 3, 4, 2])
    gain = numpy_helper.from_array(np.array([2, 0, -1], np.float32).reshape(1, 3, 1, 1), "gain")
    nodes = [
        helper.make_node("MeanVarianceNormalization", ["x"], ["a"], axes=[2, 3]),
        helper.make_node("Mul", ["a", "gain"], ["b"]),
        helper.make_node("MeanVarianceNormalization", ["b"], ["c"], axes=[2, 3]),
        helper.make_node("Add", ["c", "a"], ["z"]),
    ]
    model = graph_model(nodes, [x], [z], [gain])
    data = np.random.default_rng(1).normal(3, 2, (2, 3, 4, 2)).astype(np.float32)
    data[0, 0] = 7
    reference = np.asarray(ReferenceEvaluator(model).run(None, {"x": data})[0])
    assert np.isfinite(reference).all()
    assert not np.isfinite(run(model, {"x": data})).all(), "the runtime's own is what is mended"
    np.testing.assert_allclose(run(spell_out_mvn(model), {"x": data}), reference, atol=1e-5)


def test_a_constant_group_gives_zero_not_nan() -> None:
    x = np.zeros((2, 3, 4, 2), np.float32)
    np.testing.assert_array_equal(run(spell_out_mvn(mvn_model(9, [2, 3])), {"x": x}), 0)


def test_reduced_to_keeps_what_the_output_needs() -> None:
    x = helper.make_tensor_value_info("x", FLOAT, [1, 4])
    outputs = [helper.make_tensor_value_info(name, FLOAT, [1, 4]) for name in ("a", "b")]
    used = numpy_helper.from_array(np.ones(4, np.float32), "used")
    dead = numpy_helper.from_array(np.ones(4, np.float32), "dead")
    nodes = [
        helper.make_node("Add", ["x", "used"], ["a"]),
        helper.make_node("Mul", ["x", "dead"], ["b"]),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = reduced_to(graph_model(nodes, [x], outputs, [used, dead]), "a")
    assert [tensor.name for tensor in small.graph.initializer] == ["used"]
    assert [value.name for value in small.graph.output] == ["a"]
    np.testing.assert_array_equal(run(small, {"x": np.ones((1, 4), np.float32)}), 2)


def test_weights_listed_as_inputs_are_not_images() -> None:
    x = helper.make_tensor_value_info("x", FLOAT, [1, 4])
    w = helper.make_tensor_value_info("w", FLOAT, [4])
    weight = numpy_helper.from_array(np.ones(4, np.float32), "w")
    model = graph_model([helper.make_node("Add", ["x", "w"], ["y"])], [x, w], [x], [weight])
    assert [value.name for value in image_inputs(model)] == ["x"]


def test_reduced_to_keeps_what_only_an_inner_graph_reads() -> None:
    """As torch writes `squeeze` of an open axis: an If whose branches read outer values."""
    x = helper.make_tensor_value_info("x", FLOAT, [1, 4])
    y = helper.make_tensor_value_info("y", FLOAT, [1, 4])
    branches: dict[str, Any] = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("Add", ["double", weight], [f"{name}_out"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", FLOAT, [1, 4])],
        )
        for name, weight in (("then", "one"), ("else", "two"))
    }
    nodes = [
        helper.make_node("Add", ["x", "x"], ["double"]),
        helper.make_node("If", ["yes"], ["y"], **branches),
    ]
    weights = [
        numpy_helper.from_array(np.array(True), "yes"),
        numpy_helper.from_array(np.ones(4, np.float32), "one"),
        numpy_helper.from_array(np.full(4, 2, np.float32), "two"),
    ]
    reduced = reduced_to(graph_model(nodes, [x], [y], weights), "y")
    assert [tensor.name for tensor in reduced.graph.initializer] == ["yes", "one", "two"]
    np.testing.assert_array_equal(run(reduced, {"x": np.ones((1, 4), np.float32)}), 3)


@pytest.mark.parametrize(
    ("dims", "batch", "height", "channels_last"),
    [
        ([1, 3, 4, 2], 1, 4, False),
        ([-1, 3, -1, 2], 0, 0, False),  # -1 for an open axis, as PaddlePaddle writes it
        (["n", None, 4, 2], 0, 4, False),
        ([8, 4, 2, 3], 8, 4, True),
        ([1, 3, 4, 3], 1, 4, False),
        ([None, None, None, 3], 0, 0, True),
    ],
)
def test_what_an_input_says(dims: list[Any], batch: int, height: int, channels_last: bool) -> None:
    value = helper.make_tensor_value_info("x", FLOAT, dims)
    image = ImageInput.of(value)
    assert (image.batch, image.height, image.channels_last) == (batch, height, channels_last)


@pytest.mark.parametrize("kind", [onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT])
def test_mvn_of_half_precision_is_computed_in_float32(kind: int) -> None:
    """Where all values are equal, 1e-9 keeps 0 / 0 away; in float16 it would be 0."""
    x, y = (helper.make_tensor_value_info(name, kind, [2, 3, 4, 2]) for name in "xy")
    node = helper.make_node("MeanVarianceNormalization", ["x"], ["y"], axes=[2, 3])
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    data = np.random.default_rng(0).normal(3, 2, (2, 3, 4, 2)).astype(dtype)
    data[0, 0] = 7
    got = run(spell_out_mvn(graph_model([node], [x], [y])), {"x": data})
    assert got.dtype == dtype
    np.testing.assert_array_equal(got[0, 0], 0)
    wide = data[1].astype(np.float64)
    normed = (wide - wide.mean((1, 2), keepdims=True)) / wide.std((1, 2), keepdims=True)
    np.testing.assert_allclose(got[1], normed, atol=2e-3)
