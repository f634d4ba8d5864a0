"""A bundle that numpy can check: block means of the pixels, centered, of unit length."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from models.bundle import INPUT_NAME, OUTPUT_NAME, Bundle, write_bundle
from models.image import DECODER, Decoder, Preprocessing
from models.manifest import ModelCard
from models.self_test_images import make_self_test_images

HEIGHT, WIDTH = 32, 16
ROWS, COLUMNS = 4, 2
DIMENSION = ROWS * COLUMNS * 3
PREPROCESSING = Preprocessing(height=HEIGHT, width=WIDTH)


def embed(images: NDArray[np.uint8], shift: float = 0.0) -> NDArray[np.float32]:
    """What the bundle computes: (B,H,W,3) uint8 -> (B,24) float32."""
    blocks = images.astype(np.float64).reshape(
        len(images), ROWS, HEIGHT // ROWS, COLUMNS, WIDTH // COLUMNS, 3
    )
    flat = blocks.mean(axis=(2, 4)).reshape(len(images), -1) - (127.5 + shift)
    return np.asarray(flat / np.linalg.norm(flat, axis=1, keepdims=True), np.float32)


def embed_files(files: list[bytes], shift: float = 0.0) -> NDArray[np.float32]:
    """`embed` of image files."""
    return embed(np.stack([PREPROCESSING.load(data) for data in files]), shift)


def onnx_model(shift: float = 0.0) -> bytes:
    """The ONNX graph of `embed`."""
    nodes = [
        helper.make_node("Cast", [INPUT_NAME], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["f"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "AveragePool",
            ["nchw"],
            ["pooled"],
            kernel_shape=[HEIGHT // ROWS, WIDTH // COLUMNS],
            strides=[HEIGHT // ROWS, WIDTH // COLUMNS],
        ),
        helper.make_node("Transpose", ["pooled"], ["nhwc"], perm=[0, 2, 3, 1]),
        helper.make_node("Flatten", ["nhwc"], ["flat"]),
        helper.make_node("Sub", ["flat", "middle"], ["centered"]),
        helper.make_node("LpNormalization", ["centered"], [OUTPUT_NAME], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "block-means",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["batch", HEIGHT, WIDTH, 3])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", DIMENSION])],
        [helper.make_tensor("middle", TensorProto.FLOAT, [1], [127.5 + shift])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def write_tiny_bundle(
    out: Path,
    *,
    name: str = "tiny",
    version: str = "1",
    shift: float = 0.0,
    decoder: Decoder = DECODER,
    **changes: object,
) -> Bundle:
    """A bundle of `embed`; `shift` makes another model of it. changes: of `write_bundle`."""
    images = make_self_test_images(HEIGHT, WIDTH)
    card = ModelCard(
        name=name,
        version=version,
        backbone="block_means",
        preprocessing=PREPROCESSING.model_copy(update={"decoder": decoder}),
        method="source",
        created=datetime(2026, 1, 2, tzinfo=UTC),
    )
    fields = {
        "model": onnx_model(shift),
        "images": images,
        "vectors": embed(images, shift),
        "libraries": {"numpy": np.__version__},
    }
    return write_bundle(out, card=card, **(fields | changes))  # type: ignore[arg-type]


def crop(seed: int, *, height: int = 48, width: int = 24, suffix: str = ".png") -> bytes:
    """An image file of smooth random colors; the same seed gives the same bytes."""
    cells = np.random.default_rng(seed).integers(0, 256, (5, 3, 3)).astype(np.uint8)
    image = cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR)
    done, data = cv2.imencode(suffix, image)
    assert done
    return data.tobytes()
