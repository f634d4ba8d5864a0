"""A toy model (numpy, no runtime) and bundles of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.bundle import Bundle, write_bundle
from models.image import Preprocessing
from models.manifest import ModelCard
from models.self_test_images import make_self_test_images

HEIGHT, WIDTH = 16, 8


@pytest.fixture
def toy_embed() -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Mean color of the upper and the lower half, centered, unit length: D = 6."""

    def embed(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        halves = images.astype(np.float32).reshape(len(images), 2, -1, 3).mean(axis=2) - 127.5
        flat = halves.reshape(len(images), 6)
        return np.asarray(flat / np.linalg.norm(flat, axis=1, keepdims=True), np.float32)

    return embed


@pytest.fixture
def make_card() -> Callable[..., ModelCard]:
    def make(**changes: Any) -> ModelCard:
        fields: dict[str, Any] = {
            "name": "toy",
            "version": "1",
            "backbone": "means",
            "preprocessing": Preprocessing(height=HEIGHT, width=WIDTH),
            "method": "source",
            "recipe": "none",
            "data": {"source:a": "0" * 64},
            "scores": {"mAP": 0.5},
            "created": datetime(2026, 1, 2, tzinfo=UTC),
        }
        return ModelCard(**(fields | changes))

    return make


@pytest.fixture
def make_bundle(
    toy_embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    make_card: Callable[..., ModelCard],
) -> Callable[..., Bundle]:
    def make(out: Path, *, model: bytes = b"not really onnx", **changes: Any) -> Bundle:
        images = make_self_test_images(HEIGHT, WIDTH)
        return write_bundle(
            out,
            card=make_card(**changes),
            model=model,
            images=images,
            vectors=toy_embed(images),
            libraries={"numpy": np.__version__},
        )

    return make
