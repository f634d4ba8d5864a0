"""Frees foreign ONNX graphs for `models.wrap` from the batch that they were exported with.

Exporters write the shape of their example into a graph: a Reshape to (1, 512), a class token of
(1, 1, 768). Such a graph breaks, or mixes images, at any other batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
            names.update(dict.fromkeys((node.input[0], node.output[0])))
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
        The graph, in which a Reshape of images to (b, ...) goes to (-1, ...), and the first row of
        constants that are concatenated to images is repeated for each; and how many places changed.
        Where the batch is not the first axis it is guessed: compare the vectors.
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
            was, to = shapes[node.input[0]], list(shapes[node.output[0]])
            to[_batch_axis(was, to, image.batch or 1)] = -1
            shape = constant(f"shape_{count}", np.array(to, np.int64))
            nodes.append(shape)
            node.input[1] = shape.output[0]
            kept = [each for each in node.attribute if each.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
        elif node.op_type == "Concat" and not depends.isdisjoint(node.input) and _axis(node) != 0:
            for i, name in enumerate(node.input):
                shape_of = shapes.get(name, ())
                if name not in depends and len(shape_of) > 1 and shape_of[0] == (image.batch or 1):
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


def _batch_axis(was: Sequence[int], to: Sequence[int], batch: int) -> int:
    """Where the batch is after a Reshape.

    Not always first: attention is often computed on (tokens, B, D) and (tokens, B x heads, D), and
    its linear layers on (tokens x B, D).
    """
    if to[0] == batch:
        return 0
    if batch > 1 and batch in to:
        return to.index(batch)
    return 1 if len(to) > 2 and len(was) > 0 and was[0] == to[0] else 0


def _repeated(name: str, like: str, rank: int, count: int) -> list[onnx.NodeProto]:
    """The first row of (b,...) as (B,...) with B of another value."""
    parts = ("row", "like", "batch", "to", "repeated")
    names = {part: f"{_OWN}{part}_{count}" for part in parts}
    ones = constant(f"ones_{count}", np.ones(rank - 1, np.int64))
    first = constant(f"first_{count}", np.zeros(1, np.int64))
    return [
        ones,
        first,
        helper.make_node("Shape", [like], [names["like"]]),
        helper.make_node("Gather", [names["like"], first.output[0]], [names["batch"]], axis=0),
        helper.make_node("Concat", [names["batch"], ones.output[0]], [names["to"]], axis=0),
        helper.make_node("Gather", [name, first.output[0]], [names["row"]], axis=0),
        helper.make_node("Expand", [names["row"], names["to"]], [names["repeated"]]),
    ]
