"""Small foreign ONNX graphs, and their vectors image by image in ONNX Runtime on the raw file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from models.bundle import Bundle
from models.foreign_graph import InputConvention
from models.wrap import GraphOptions, Wrapped, wrap_onnx

FLOAT = onnx.TensorProto.FLOAT
HEIGHT, WIDTH, CHANNELS = 32, 16, 8
CONVENTION = InputConvention(
    channel_order="bgr", mean=(104.0, 117.0, 123.0), std=(58.0, 57.0, 57.0)
)


class Foreign:
    """A small embedding graph; `tail` is what follows the pooled (B,8,1,1) tensor `pooled`.

    head: what makes float32 (B,3,H,W) `image` of the input `data`; none: the input is that.
    dtype: of weights and values.
    """

    def __init__(
        self,
        tail: Sequence[Any],
        weights: dict[str, NDArray[Any]] | None = None,
        *,
        rank: int = 2,
        head: Sequence[Any] = (),
        dtype: Any = np.float32,
    ) -> None:
        self.ranks = {"out": rank, "pooled": 4, "relu": 4}
        rng = np.random.default_rng(0)
        self.weights = {
            "w": rng.normal(0, 0.3, (CHANNELS, 3, 4, 4)).astype(dtype),
            "b": rng.normal(0, 0.3, CHANNELS).astype(dtype),
            **(weights or {}),
        }
        self.nodes = [
            *head,
            helper.make_node(
                "Conv", ["image" if head else "data", "w", "b"], ["conv"], strides=[4, 4]
            ),
            helper.make_node("Relu", ["conv"], ["relu"]),
            helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]),
            *tail,
        ]

    def save(
        self,
        path: Path,
        *,
        dims: tuple[Any, ...] = (1, 3, HEIGHT, WIDTH),
        opset: int = 9,
        ir_version: int = 4,
        outputs: tuple[str, ...] = ("out",),
        kind: int = FLOAT,
        out_kind: int = FLOAT,
        list_weights_as_inputs: bool = False,
    ) -> Path:
        tensors = [numpy_helper.from_array(value, name) for name, value in self.weights.items()]
        inputs = [helper.make_tensor_value_info("data", kind, dims)]
        if list_weights_as_inputs:
            inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
        infos = [
            helper.make_tensor_value_info(name, out_kind, [None] * self.ranks[name])
            for name in outputs
        ]
        graph = helper.make_graph(self.nodes, "g", inputs, infos, tensors)
        opsets = [helper.make_opsetid("", opset)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=ir_version), path)
        return path


def shape(*dims: int) -> NDArray[np.int64]:
    return np.array(dims, np.int64)


def reshape(source: str, target: str, by: str, **attributes: Any) -> Any:
    return helper.make_node("Reshape", [source, by], [target], **attributes)


FLAT = Foreign([helper.make_node("Flatten", ["pooled"], ["out"])])


def wrapped(path: Path, out: Path, **changes: Any) -> Wrapped:
    given: dict[str, Any] = {
        "name": "foreign",
        "version": "1",
        "created": datetime(2026, 1, 2, tzinfo=UTC),
        "convention": CONVENTION,
    }
    of_graph = {field.name for field in fields(GraphOptions)}
    options = GraphOptions(**{name: changes[name] for name in of_graph & changes.keys()})
    rest = {name: value for name, value in changes.items() if name not in of_graph}
    return wrap_onnx(path, out, options=options, **(given | rest))


def embedder(bundle: Bundle) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(
        str(bundle.model_path), providers=["CPUExecutionProvider"]
    )
    return lambda images: np.asarray(session.run(["embeddings"], {"images": images})[0])


def original_vectors(
    path: Path,
    images: NDArray[np.uint8],
    convention: InputConvention = CONVENTION,
    output: str = "out",
    *,
    name: str = "data",
    batch: int = 1,
    as_taken: Callable[[NDArray[np.float32]], NDArray[Any]] = lambda x: x,
) -> NDArray[np.float32]:
    """The file as it is, by hand: one image at a time, then unit length.

    batch: the fixed batch of the file, filled with copies of the image, of which one row counts.
    as_taken: float32 (B,3,H,W) -> what the file takes.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = as_taken(convention.apply(images))
    rows = []
    for one in x:
        got = np.asarray(session.run([output], {name: np.stack([one] * batch)})[0], np.float32)
        rows.append(got.reshape(batch, -1)[0])
    vectors = np.stack(rows)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
