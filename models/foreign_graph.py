"""Surgery on foreign ONNX graphs for `models.wrap`: pixels in front, unit vectors behind.

ONNX Runtime's MeanVarianceNormalization (group norm, in many exports) divides 0 by 0 where a group
is constant, against the standard: it is spelled out. Batches are mended in `foreign_batch`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.bundle import INPUT_NAME, OUTPUT_NAME
from models.errors import WrapError
from models.foreign_file import opset_of

try:
    import onnx
    from onnx import compose, helper, numpy_helper
except ImportError as _missing:
    raise WrapError(
        "wrapping a foreign model needs the package onnx; install it with `pip install onnx`"
    ) from _missing

_FOREIGN = "foreign/"
_OWN = "resight/"
_AXES_AS_INPUT_OPSET = {"ReduceMean": 18, "ReduceL2": 18, "Unsqueeze": 13}
_NORM_EPSILON = 1e-12
_MVN_EPSILON = 1e-9  # of the operator's definition in the ONNX standard
_FLOAT = onnx.TensorProto.FLOAT
_PIXEL_KINDS: dict[int, Any] = {
    _FLOAT: np.float32,
    onnx.TensorProto.FLOAT16: np.float16,
    onnx.TensorProto.DOUBLE: np.float64,
    onnx.TensorProto.UINT8: np.uint8,
}
_MIN_IR_VERSION = 4  # before, weights had to be graph inputs


_LARGEST_PIXEL = 256.0
"""No network wants larger values than pixels are as they come."""


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
        self._refuse_other_scales()

    def _refuse_other_scales(self) -> None:
        """Refuse figures that no network is trained with: a mean or std of another scale."""
        white = 255 * self.scale
        low, high = min(0.0, white), max(0.0, white)
        if wrong := [mean for mean in self.mean if not low <= mean <= high]:
            raise WrapError(
                f"the mean {wrong[0]:g} is outside of what the scale {self.scale:g} makes of "
                f"pixels, {low:g} to {high:g}; give mean and std on that scale: for (x - mean) "
                "times a factor, leave the scale at 1 and give 1 / factor as std"
            )
        pairs = list(zip(self.mean, self.std, strict=True))
        most = max(abs((pixel - mean) / std) for mean, std in pairs for pixel in (low, high))
        if most > _LARGEST_PIXEL:
            raise WrapError(
                f"pixels would reach {most:.0f} after scale, mean and std; give the scale "
                f"{1 / 255:g} for a mean and std of pixels from 0 to 1"
            )

    @property
    def keeps_pixels(self) -> bool:
        """Whether scale, mean and std leave pixels as they are."""
        return (self.scale, self.mean, self.std) == (1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def apply(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (B,H,W,3) RGB -> float32 (B,3,H,W) as the foreign model wants it."""
        x = images.astype(np.float32)
        if self.channel_order == "bgr":
            x = x[..., ::-1]
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        x = (x * np.float32(self.scale) - mean) / std
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """What a foreign graph takes.

    name: of the graph's input. kind: its ONNX element type.
    channels_last: (B,H,W,3), not (B,3,H,W).
    batch, height, width: 0 where the graph leaves them open.
    """

    name: str
    kind: int
    channels_last: bool
    batch: int
    height: int
    width: int

    @classmethod
    def of(cls, value: onnx.ValueInfoProto) -> ImageInput:
        """Read a graph's input.

        Raises:
            WrapError: says what it takes instead of images.
        """
        kind = value.type.tensor_type.elem_type
        sides = [max(dim.dim_value, 0) for dim in value.type.tensor_type.shape.dim]
        layout = f"{onnx.TensorProto.DataType.Name(kind)} ({', '.join(_dims(value))})"
        head = f"the input {value.name} is {layout}"
        if kind not in _PIXEL_KINDS:
            known = ", ".join(onnx.TensorProto.DataType.Name(each) for each in _PIXEL_KINDS)
            raise WrapError(f"{head}; pixels fit {known}: export the model with one of these")
        if len(sides) == 3:
            raise WrapError(f"{head}, one image without a batch axis; export it with that axis")
        if len(sides) != 4:
            raise WrapError(
                f"{head}, not a batch of images (B,3,H,W) or (B,H,W,3); models of clips, vectors "
                "or unknown shapes do not fit: export a model of single images"
            )
        channels_last = sides[1] != 3 and sides[3] == 3
        if not channels_last and sides[1] not in (0, 3):
            raise WrapError(
                f"{head}: neither (B,3,H,W) nor (B,H,W,3); only models of images with 3 channels "
                "fit"
            )
        height, width = sides[1:3] if channels_last else sides[2:]
        return cls(
            name=value.name,
            kind=kind,
            channels_last=channels_last,
            batch=sides[0],
            height=height,
            width=width,
        )

    def feed(self, convention: InputConvention, images: NDArray[np.uint8]) -> NDArray[Any]:
        """uint8 (B,H,W,3) RGB -> what the graph takes for them."""
        x = convention.apply(images)
        if self.channels_last:
            x = x.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(x.astype(_PIXEL_KINDS[self.kind]))

    def changes(self) -> list[str]:
        """What the wrapped graph does for this input beyond pixels in float32 (B,3,H,W)."""
        changes = []
        if self.kind != _FLOAT:
            name = onnx.TensorProto.DataType.Name(self.kind)
            changes.append(f"pixels are cast to {name}, which the input takes")
        if self.channels_last:
            changes.append("pixels stay (B,H,W,3), which the input takes")
        return changes


def _dims(value: onnx.ValueInfoProto) -> list[str]:
    dims = value.type.tensor_type.shape.dim
    return [str(dim.dim_value) if dim.dim_value > 0 else dim.dim_param or "?" for dim in dims]


def described(value: onnx.ValueInfoProto) -> str:
    """Name and shape of an input or output: "feat (B, 512)"."""
    return f"{value.name} ({', '.join(_dims(value))})"


def image_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Graph inputs that are not weights (files of IR version 3 list weights as inputs)."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def names_read(node: onnx.NodeProto) -> set[str]:
    """Values that a node reads, also in the graphs inside of it."""
    names = set(node.input) - {""}
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                names |= names_read(inner)
            names |= {value.name for value in graph.output}
    return names


def reduced_to(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """The part of a graph that one of its outputs needs; weights cease to be inputs.

    onnx.utils.Extractor does this too, but loses what only the graphs inside of nodes read.
    """
    needed, nodes = {output}, []
    for node in reversed(model.graph.node):
        if not needed.isdisjoint(node.output):
            needed |= names_read(node)
            nodes.append(node)
    reduced = _with_nodes(model, nodes[::-1])
    reduced.ir_version = max(model.ir_version, _MIN_IR_VERSION)
    graph, whole = reduced.graph, model.graph
    del graph.input[:], graph.output[:], graph.initializer[:], graph.sparse_initializer[:]
    graph.input.extend(value for value in image_inputs(model) if value.name in needed)
    graph.output.extend(value for value in whole.output if value.name == output)
    graph.initializer.extend(tensor for tensor in whole.initializer if tensor.name in needed)
    graph.sparse_initializer.extend(
        tensor for tensor in whole.sparse_initializer if tensor.values.name in needed
    )
    return reduced


def spell_out_mvn(model: onnx.ModelProto) -> onnx.ModelProto:
    """(x - E x) / (sqrt(E (x - E x)^2) + 1e-9) in place of each MeanVarianceNormalization.

    In float32: in float16, 1e-9 would be 0.
    """
    nodes: list[onnx.NodeProto] = []
    kinds = _kinds(model) if has_mvn(model) else {}
    for node in model.graph.node:
        if node.op_type != "MeanVarianceNormalization":
            nodes.append(node)
            continue
        axes = next((list(a.ints) for a in node.attribute if a.name == "axes"), [0, 2, 3])
        (x,), (y,), opset = node.input, node.output, opset_of(model)
        kind, last = kinds.get(x, _FLOAT), y
        if kind != _FLOAT:
            nodes.append(helper.make_node("Cast", [x], [f"{y}/float"], to=_FLOAT))
            x, last = f"{y}/float", f"{y}/normed"
        nodes += [
            *_with_axes("ReduceMean", x, f"{y}/mean", axes, opset),
            helper.make_node("Sub", [x, f"{y}/mean"], [f"{y}/centered"]),
            helper.make_node("Mul", [f"{y}/centered", f"{y}/centered"], [f"{y}/square"]),
            *_with_axes("ReduceMean", f"{y}/square", f"{y}/variance", axes, opset),
            helper.make_node("Sqrt", [f"{y}/variance"], [f"{y}/deviation"]),
            constant(f"{y}/epsilon", np.asarray(_MVN_EPSILON, np.float32)),
            helper.make_node("Add", [f"{y}/deviation", f"{_OWN}{y}/epsilon"], [f"{y}/divisor"]),
            helper.make_node("Div", [f"{y}/centered", f"{y}/divisor"], [last]),
        ]
        if kind != _FLOAT:
            nodes.append(helper.make_node("Cast", [last], [y], to=kind))
    return _with_nodes(model, nodes)


def has_mvn(model: onnx.ModelProto) -> bool:
    """Whether a graph has a MeanVarianceNormalization."""
    return any(node.op_type == "MeanVarianceNormalization" for node in model.graph.node)


def _kinds(model: onnx.ModelProto) -> dict[str, int]:
    """Value -> element type, where it can be inferred."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input)
    }


def wrap_graph(
    original: onnx.ModelProto,
    image: ImageInput,
    convention: InputConvention,
    *,
    height: int,
    width: int,
    dimension: int,
    one_by_one: bool,
) -> onnx.ModelProto:
    """uint8 (B,height,width,3) RGB -> the foreign graph -> float32 (B,dimension) of unit length.

    Args:
        original: graph with this image input and one output, the embedding.
        image: the graph's input.
        convention: what the graph expects of its pixels.
        height, width: input size in pixels. dimension: D.
        one_by_one: run the graph inside of a Scan, one image at a time; from operator set 9 on.

    Returns:
        The new graph; foreign nodes keep their operator set and names, under a prefix.
    """
    model = compose.add_prefix(original, _FOREIGN)
    graph, opset = model.graph, opset_of(model)
    target, source = graph.input[0].name, graph.output[0].name
    middle = list(graph.node)
    if one_by_one:
        shape = [height, width, 3] if image.channels_last else [3, height, width]
        middle = [_scan(graph, image.kind, shape, dimension, opset)]
        target, source = middle[0].input[0], middle[0].output[0]
        del graph.initializer[:], graph.sparse_initializer[:]
    before = list(_pixel_nodes(convention, image, target))
    after = list(_normalize_nodes(source, dimension, opset))
    model = _with_nodes(model, [*before, *middle, *after])
    graph = model.graph
    read = {name for node in graph.node for name in names_read(node)}
    for tensor in [each for each in graph.initializer if each.name not in read]:
        graph.initializer.remove(tensor)  # a shape that was freed
    del graph.input[:], graph.output[:], graph.value_info[:]
    pixels: list[str | int | None] = ["batch", height, width, 3]
    graph.input.append(helper.make_tensor_value_info(INPUT_NAME, onnx.TensorProto.UINT8, pixels))
    graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, _FLOAT, ["batch", dimension]))
    return model


def _scan(
    graph: onnx.GraphProto, kind: int, shape: Sequence[int], dimension: int, opset: int
) -> onnx.NodeProto:
    """(B,*shape) -> (B,dimension) float32: a graph of one image as the body of a Scan over B."""
    one, row = _OWN + "one", _OWN + "row"
    nodes = [
        *_with_axes("Unsqueeze", one, graph.input[0].name, [0], opset),
        *graph.node,
        *_rows_nodes(graph.output[0].name, row, [dimension]),
    ]
    body = helper.make_graph(
        nodes,
        "one_image",
        [helper.make_tensor_value_info(one, kind, shape)],
        [helper.make_tensor_value_info(row, _FLOAT, [dimension])],
        graph.initializer,
    )
    body.sparse_initializer.extend(graph.sparse_initializer)
    return helper.make_node(
        "Scan", [_OWN + "pixels"], [_OWN + "rows"], body=body, num_scan_inputs=1
    )


def _with_nodes(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    return changed


def constant(name: str, value: NDArray[Any]) -> onnx.NodeProto:
    """A node that gives an array, under our prefix."""
    tensor = numpy_helper.from_array(value, _OWN + name)
    return helper.make_node("Constant", [], [_OWN + name], value=tensor)


def _with_axes(
    operator: str, x: str, y: str, axes: list[int], opset: int
) -> Iterator[onnx.NodeProto]:
    """An operator with axes, as the operator set wants them stated; reductions keep theirs."""
    if opset < _AXES_AS_INPUT_OPSET[operator]:
        yield helper.make_node(operator, [x], [y], axes=axes)
    else:
        yield constant(f"{y}/axes", np.array(axes, np.int64))
        yield helper.make_node(operator, [x, f"{_OWN}{y}/axes"], [y])


def _pixel_nodes(
    convention: InputConvention, image: ImageInput, target: str
) -> Iterator[onnx.NodeProto]:
    """uint8 (B,H,W,3) RGB -> what the foreign graph takes."""
    last = _OWN + "rgb"
    yield helper.make_node("Cast", [INPUT_NAME], [last], to=_FLOAT)
    if convention.channel_order == "bgr":
        yield constant("reversed", np.array([2, 1, 0], np.int64))
        yield helper.make_node("Gather", [last, _OWN + "reversed"], [_OWN + "bgr"], axis=3)
        last = _OWN + "bgr"
    for operator, name, value in (
        ("Mul", "scale", convention.scale),
        ("Sub", "mean", convention.mean),
        ("Div", "std", convention.std),
    ):
        yield constant(name, np.asarray(value, np.float32))
        yield helper.make_node(operator, [last, _OWN + name], [f"{_OWN}after_{name}"])
        last = f"{_OWN}after_{name}"
    if not image.channels_last:
        yield helper.make_node("Transpose", [last], [_OWN + "planes"], perm=[0, 3, 1, 2])
        last = _OWN + "planes"
    yield helper.make_node("Cast", [last], [target], to=image.kind)


def _rows_nodes(source: str, target: str, shape: Sequence[int]) -> Iterator[onnx.NodeProto]:
    """A foreign output as float32 of this shape."""
    yield helper.make_node("Cast", [source], [f"{target}/float"], to=_FLOAT)
    yield constant(f"{target}/shape", np.array(shape, np.int64))
    yield helper.make_node("Reshape", [f"{target}/float", f"{_OWN}{target}/shape"], [target])


def _normalize_nodes(source: str, dimension: int, opset: int) -> Iterator[onnx.NodeProto]:
    """(B,D,...) -> (B,D), e / max(||e||, 1e-12)."""
    flat, norm = _OWN + "flat", _OWN + "norm"
    yield from _rows_nodes(source, flat, [-1, dimension])
    yield from _with_axes("ReduceL2", flat, norm, [1], opset)
    yield constant("epsilon", np.asarray(_NORM_EPSILON, np.float32))
    yield helper.make_node("Max", [norm, _OWN + "epsilon"], [_OWN + "clamped"])
    yield helper.make_node("Div", [flat, _OWN + "clamped"], [OUTPUT_NAME])
