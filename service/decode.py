"""Image files -> model input, in threads: the decoders release the interpreter lock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from models.errors import ImageError
from models.image import Preprocessing
from service.errors import BadImageError
from service.metrics import Metrics


class Decoder:
    """Decodes and resizes as one model demands it.

    max_bytes: largest file. max_pixels: largest height x width.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        *,
        max_bytes: int,
        max_pixels: int,
        threads: int,
        metrics: Metrics,
    ) -> None:
        self._preprocessing = preprocessing
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._threads = threads
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="resight-decode")

    async def decode(self, images: Sequence[bytes]) -> list[NDArray[np.uint8] | BadImageError]:
        """One (H,W,3) uint8 RGB, or what is wrong with it, per image."""
        loop = asyncio.get_running_loop()
        with self._metrics.stage("decode"):
            # One task per thread, not per image: handing over costs as much as a small crop.
            size = max(1, -(-len(images) // self._threads))
            parts = [
                loop.run_in_executor(self._pool, self._decode_part, images[start : start + size])
                for start in range(0, len(images), size)
            ]
            return [item for part in await asyncio.gather(*parts) for item in part]

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _decode_part(self, images: Sequence[bytes]) -> list[NDArray[np.uint8] | BadImageError]:
        return [self._decode_one(image) for image in images]

    def _decode_one(self, image: bytes) -> NDArray[np.uint8] | BadImageError:
        if len(image) > self._max_bytes:
            return self._bad(
                "IMAGE_TOO_LARGE",
                f"image file has {len(image)} bytes, more than {self._max_bytes}; send the crop, "
                "not the whole frame",
            )
        try:
            return self._preprocessing.load(image, max_pixels=self._max_pixels)
        except ImageError as error:
            return self._bad(error.reason, str(error))

    def _bad(self, problem: str, message: str) -> BadImageError:
        self._metrics.bad_images.labels(problem).inc()
        return BadImageError(message, metadata={"problem": problem})
