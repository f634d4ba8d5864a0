"""Small human-parsing models: the largest color channel of a pixel is its class."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper


def parsing_model(
    path: Path,
    *,
    takes: str = "uint8",
    gives: str = "scores",
    batch: int | str = "n",
    size: tuple[int, int] | None = None,
) -> Path:
    """Write an ONNX file: class 0 where red is largest, 1 green, 2 blue.

    takes: uint8 or float. gives: scores (B,3,h,w), map (B,h,w) or map4 (B,1,h,w) of classes.
    size: height and width; free unless given.
    """
    height, width = size or ("h", "w")
    kind = TensorProto.UINT8 if takes == "uint8" else TensorProto.FLOAT
    nodes = [helper.make_node("Cast", ["crops"], ["pixels"], to=TensorProto.FLOAT)]
    if gives == "scores":
        nodes.append(helper.make_node("Identity", ["pixels"], ["parsed"]))
        out = helper.make_tensor_value_info("parsed", TensorProto.FLOAT, [batch, 3, height, width])
    else:
        keep = int(gives == "map4")
        nodes.append(helper.make_node("ArgMax", ["pixels"], ["parsed"], axis=1, keepdims=keep))
        shape = [batch, *([1] * keep), height, width]
        out = helper.make_tensor_value_info("parsed", TensorProto.INT64, shape)
    crops = helper.make_tensor_value_info("crops", kind, [batch, 3, height, width])
    graph = helper.make_graph(nodes, "parser", [crops], [out])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path
