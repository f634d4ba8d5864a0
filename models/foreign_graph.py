"""Surgery on foreign ONNX graphs for `models.wrap`: pixels in front, unit vectors behind.

Two traps of foreign graphs are mended here. Reshapes with a batch of 1 written into them break or
mix batches. And ONNX Runtime's MeanVarianceNormalization (group norm, in many exports) divides 0
by 0 where a group is constant, against the standard.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.bundle import INPUT_NAME, OUTPUT_NAME
from models.errors import WrapError

try:
    import onnx
    import onnx.utils
    from onnx import compose, helper, numpy_helper
except ImportError as _missing:
    raise WrapError(
        "wrapping a foreign model needs the package onnx; install it with `pip install onnx`"
    ) from _missing

_FOREIGN = "foreign/"
_OWN = "resight/"
_AXES_AS_INPUT_OPSET = 18
_NORM_EPSILON = 1e-12
_MVN_EPSILON = 1e-9  # of the operator's definition in the ONNX standard


@dataclass(frozen=True, kw_only=True)
class InputConvention:
    """What a foreign model expects of its pixels: (scale x - mean) / std, x in 0..255.

    channel_order: "rgb", or "bgr" (OpenCV, OpenVINO, Caffe).
    scale: factor before the mean; 1 for models on 0..255, 1/255 for models on 0..1.
    mean, std: one number per channel, in the model's channel order, on the scale after `scale`.
    """

    channel_order: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.channel_order not in ("rgb", "bgr"):
            raise WrapError(f"channel order {self.channel_order!r}; choose 'rgb' or 'bgr'")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise WrapError("mean and std need three numbers each, one per channel")
        if not np.isfinite([self.scale, *self.mean, *self.std]).all():
            raise WrapError("scale, mean and std must be finite numbers")
        if self.scale == 0 or 0 in self.std:
            raise WrapError("scale and std must not be 0; give the figures of the model's training")

    def apply(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (B,H,W,3) RGB -> float32 (B,3,H,W) as the foreign model wants it."""
        x = images.astype(np.float32)
        if self.channel_order == "bgr":
            x = x[..., ::-1]
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        x = (x * np.float32(self.scale) - mean) / std
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def image_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Graph inputs that are not weights (files of IR version 3 list weights as inputs)."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def reduced_to(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """The part of a graph that its image input and one of its outputs need."""
    inputs = [value.name for value in image_inputs(model)]
    return onnx.utils.Extractor(model).extract_model(inputs, [output])


def spell_out_mvn(model: onnx.ModelProto) -> onnx.ModelProto:
    """(x - E x) / (sqrt(E (x - E x)^2) + 1e-9) in place of each MeanVarianceNormalization."""
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "MeanVarianceNormalization":
            nodes.append(node)
            continue
        axes = next((list(a.ints) for a in node.attribute if a.name == "axes"), [0, 2, 3])
        (x,), (y,), opset = node.input, node.output, _opset(model)
        nodes += [
            *_reduce("ReduceMean", x, f"{y}/mean", axes, opset),
            helper.make_node("Sub", [x, f"{y}/mean"], [f"{y}/centered"]),
            helper.make_node("Mul", [f"{y}/centered", f"{y}/centered"], [f"{y}/square"]),
            *_reduce("ReduceMean", f"{y}/square", f"{y}/variance", axes, opset),
            helper.make_node("Sqrt", [f"{y}/variance"], [f"{y}/deviation"]),
            _constant(f"{y}/epsilon", np.asarray(_MVN_EPSILON, np.float32)),
            helper.make_node("Add", [f"{y}/deviation", f"{_OWN}{y}/epsilon"], [f"{y}/divisor"]),
            helper.make_node("Div", [f"{y}/centered", f"{y}/divisor"], [y]),
        ]
    return _with_nodes(model, nodes)


def wrap_graph(
    original: onnx.ModelProto,
    output: str,
    convention: InputConvention,
    *,
    height: int,
    width: int,
    dimension: int,
    free_batch: bool,
) -> bytes:
    """uint8 (B,height,width,3) RGB -> the foreign graph -> float32 (B,dimension) of unit length.

    Args:
        original: graph with one image input and the output named.
        output: which output is the embedding.
        convention: what the graph expects of its pixels.
        height, width: input size in pixels. dimension: D.
        free_batch: give constant reshapes of data from [1,...] to [0,...], "as many as come in".

    Returns:
        The new ONNX file; foreign nodes keep their operator set and names, under a prefix.
    """
    model = compose.add_prefix(original, _FOREIGN)
    (image,) = image_inputs(model)
    nodes = _free_reshapes(model.graph, image.name) if free_batch else list(model.graph.node)
    before = list(_pixel_nodes(convention, image.name))
    after = list(_normalize_nodes(_FOREIGN + output, _opset(model)))
    model = _with_nodes(model, [*before, *nodes, *after])
    graph = model.graph
    weights = [value for value in graph.input if value.name != image.name]
    del graph.input[:], graph.output[:], graph.value_info[:]
    pixels, floats = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT
    shape: list[str | int | None] = ["batch", height, width, 3]
    graph.input.extend([helper.make_tensor_value_info(INPUT_NAME, pixels, shape), *weights])
    graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, floats, ["batch", dimension]))
    return bytes(model.SerializeToString())


def _with_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    return changed


def _opset(model: onnx.ModelProto) -> int:
    return next(
        int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")
    )


def _constant(name: str, value: NDArray[Any]) -> onnx.NodeProto:
    # Nodes, not initializers: these would have to be graph inputs in files of IR version 3.
    tensor = numpy_helper.from_array(value, _OWN + name)
    return helper.make_node("Constant", [], [_OWN + name], value=tensor)


def _reduce(operator: str, x: str, y: str, axes: list[int], opset: int) -> Iterator[onnx.NodeProto]:
    """A reduction that keeps its axes, as the operator set wants them stated."""
    if opset < _AXES_AS_INPUT_OPSET:
        yield helper.make_node(operator, [x], [y], axes=axes)
    else:
        yield _constant(f"{y}/axes", np.array(axes, np.int64))
        yield helper.make_node(operator, [x, f"{_OWN}{y}/axes"], [y])


def _pixel_nodes(convention: InputConvention, target: str) -> Iterator[onnx.NodeProto]:
    """uint8 (B,H,W,3) RGB -> float32 (B,3,H,W) in the foreign convention."""
    last = _OWN + "rgb"
    yield helper.make_node("Cast", [INPUT_NAME], [last], to=onnx.TensorProto.FLOAT)
    if convention.channel_order == "bgr":
        yield _constant("reversed", np.array([2, 1, 0], np.int64))
        yield helper.make_node("Gather", [last, _OWN + "reversed"], [_OWN + "bgr"], axis=3)
        last = _OWN + "bgr"
    for operator, name, value in (
        ("Mul", "scale", convention.scale),
        ("Sub", "mean", convention.mean),
        ("Div", "std", convention.std),
    ):
        yield _constant(name, np.asarray(value, np.float32))
        yield helper.make_node(operator, [last, _OWN + name], [f"{_OWN}after_{name}"])
        last = f"{_OWN}after_{name}"
    yield helper.make_node("Transpose", [last], [target], perm=[0, 3, 1, 2])


def _normalize_nodes(source: str, opset: int) -> Iterator[onnx.NodeProto]:
    """(B,D,...) -> (B,D), e / max(||e||, 1e-12)."""
    flat, norm = _OWN + "flat", _OWN + "norm"
    yield helper.make_node("Flatten", [source], [flat], axis=1)
    yield from _reduce("ReduceL2", flat, norm, [1], opset)
    yield _constant("epsilon", np.asarray(_NORM_EPSILON, np.float32))
    yield helper.make_node("Max", [norm, _OWN + "epsilon"], [_OWN + "clamped"])
    yield helper.make_node("Div", [flat, _OWN + "clamped"], [OUTPUT_NAME])


def _free_reshapes(graph: onnx.GraphProto, input_name: str) -> list[onnx.NodeProto]:
    """Nodes of a graph, its constant reshapes of data freed from a batch of 1."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    depends_on_image = {input_name}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        if not depends_on_image.isdisjoint(node.input):
            depends_on_image.update(node.output)
        shape = constants.get(node.input[1]) if node.op_type == "Reshape" else None
        pinned = shape is not None and len(shape) > 1 and shape[0] == 1
        if pinned and node.input[0] in depends_on_image:
            freed = np.array(shape, np.int64)
            freed[0] = 0  # as many as come in
            nodes.append(_constant(f"shape_{len(nodes)}", freed))
            node.input[1] = nodes[-1].output[0]
        nodes.append(node)
    return nodes
