"""Frees foreign ONNX graphs for `models.wrap` from the batch that they were exported with.

Exporters write the shape of their example into a graph: a Reshape to (1, 512), a class token of
(1, 1, 768). Such a graph breaks, or mixes images, at any other batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from models.errors import WrapError
from models.foreign_graph import ImageInput, constant, names_read

try:
    import onnx
    from onnx import helper
except ImportError as _missing:
    raise WrapError(
        "wrapping a foreign model needs the package onnx; install it with `pip install onnx`"
    ) from _missing

_OWN = "resight/"


def shapes_to_know(model: onnx.ModelProto, image: ImageInput) -> list[str]:
    """Values whose shapes `free_batch` needs."""
    depends = _depending(model, image.name)
    names: dict[str, None] = {}
    for node in model.graph.node:
        if _is_fixed_reshape(node, depends):
            names[node.output[0]] = None
        if node.op_type == "Concat" and not depends.isdisjoint(node.input):
            names.update(dict.fromkeys(name for name in node.input if name not in depends))
    return list(names)


def free_batch(
    model: onnx.ModelProto, image: ImageInput, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[onnx.ModelProto, int]:
    """Free constant shapes from the batch.

    Args:
        model: foreign graph.
        image: its input.
        shapes: of `shapes_to_know`, as they are when the graph runs at its own batch.

    Returns:
        The graph, in which a Reshape of images to (b, ...) goes to (-1, ...), and constants of one
        image that are concatenated to images are repeated for each; and how many places changed.
    """
    depends = _depending(model, image.name)
    freed = onnx.ModelProto()
    freed.CopyFrom(model)
    del freed.graph.node[:]
    nodes, count = freed.graph.node, 0
    for each in model.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(each)
        if _is_fixed_reshape(node, depends) and len(shapes[node.output[0]]) > 0:
            count += 1
            shape = constant(
                f"shape_{count}", np.array([-1, *shapes[node.output[0]][1:]], np.int64)
            )
            nodes.append(shape)
            node.input[1] = shape.output[0]
            kept = [each for each in node.attribute if each.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
        elif node.op_type == "Concat" and not depends.isdisjoint(node.input) and _axis(node) != 0:
            for i, name in enumerate(node.input):
                shape_of = shapes.get(name, ())
                if name not in depends and len(shape_of) > 1 and shape_of[0] == 1:
                    count += 1
                    like = next(other for other in node.input if other in depends)
                    nodes.extend(_repeated(name, like, len(shape_of), count))
                    node.input[i] = f"{_OWN}repeated_{count}"
        nodes.append(node)
    return freed, count


def _depending(model: onnx.ModelProto, image_name: str) -> set[str]:
    """Values that depend on the image."""
    depends = {image_name}
    for node in model.graph.node:
        if not depends.isdisjoint(names_read(node)):
            depends.update(node.output)
    return depends


def _is_fixed_reshape(node: onnx.NodeProto, depends: set[str]) -> bool:
    reshapes = node.op_type == "Reshape" and len(node.input) == 2
    return reshapes and node.input[0] in depends and node.input[1] not in depends


def _axis(node: onnx.NodeProto) -> int:
    return next((int(each.i) for each in node.attribute if each.name == "axis"), 0)


def _repeated(name: str, like: str, rank: int, count: int) -> list[onnx.NodeProto]:
    """(1,...) -> (B,...) with B of another value."""
    names = {part: f"{_OWN}{part}_{count}" for part in ("like", "batch", "to", "repeated")}
    ones = constant(f"ones_{count}", np.ones(rank - 1, np.int64))
    first = constant(f"first_{count}", np.zeros(1, np.int64))
    return [
        ones,
        first,
        helper.make_node("Shape", [like], [names["like"]]),
        helper.make_node("Gather", [names["like"], first.output[0]], [names["batch"]], axis=0),
        helper.make_node("Concat", [names["batch"], ones.output[0]], [names["to"]], axis=0),
        helper.make_node("Expand", [name, names["to"]], [names["repeated"]]),
    ]
