"""A double of `service.embedding.engine.Engine` that a test can hold, spoil and count."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from service.types import ModelInfo
from tests.support.tiny_model import DIMENSION, HEIGHT, WIDTH, embed

MODEL = ModelInfo("fake", "1", "f" * 64, DIMENSION, HEIGHT, WIDTH, "means", "source", "cpu")


class FakeEngine:
    """Computes like the tiny model; runs only while `gate` is open; fails as it is told."""

    def __init__(self) -> None:
        self.model = MODEL
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []
        self.entered = threading.Semaphore(0)
        self.nan_for: NDArray[np.uint8] | None = None
        self.spoil: Callable[[NDArray[np.uint8]], None] = lambda images: None

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batches.append(len(images))
        self.entered.release()
        assert self.gate.wait(10)
        self.spoil(images)
        vectors = embed(images)
        for image, vector in zip(images, vectors, strict=True):
            if self.nan_for is not None and np.array_equal(image, self.nan_for):
                vector[0] = np.nan
        return vectors

    async def has_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=10)
