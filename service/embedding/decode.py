"""Decoding of image files in threads: the decoders release the interpreter lock."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.errors import ImageError
from models.image import Preprocessing
from service.errors import BadImageError, ShuttingDownError
from service.operations.metrics import Metrics

_SLICE_S = 0.01
"""Seconds that a thread works for one call before the next one has its turn."""

# Of one call: the images left to decode (number and bytes), and the results by number.
_Todo: TypeAlias = deque[tuple[int, bytes]]
_Results: TypeAlias = dict[int, NDArray[np.uint8] | BadImageError]


class CropDecoder:
    """Decodes and resizes as one model requires.

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
        self._closing = False
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="resight-decode")

    async def decode(self, images: Sequence[bytes]) -> list[NDArray[np.uint8] | BadImageError]:
        """One (H,W,3) uint8 RGB array, or its error, per image.

        Calls take turns. A cancelled call ends once its threads have finished their current images.

        Raises:
            ShuttingDownError: the decoder was closed before the last image.
        """
        todo: _Todo = deque(enumerate(images))
        results: _Results = {}
        workers = min(self._threads, len(images))
        with self._metrics.stage("decode"):
            done = asyncio.gather(*(self._work(todo, results) for _ in range(workers)))
            try:
                await asyncio.shield(done)
            except BaseException:
                todo.clear()
                await asyncio.wait([done])
                raise
        if len(results) < len(images):
            raise ShuttingDownError("the server stopped; send the call again")
        return [results[number] for number in range(len(images))]

    def close(self) -> None:
        """Stop the threads after their current images; the rest is not decoded."""
        self._closing = True
        self._pool.shutdown(wait=True)

    async def _work(self, todo: _Todo, results: _Results) -> None:
        # A slice at a time, each queued at the end of the pool: no call delays others for longer.
        # Not an image at a time: queueing costs as much as decoding a small crop.
        loop = asyncio.get_running_loop()
        while todo and not self._closing:
            await loop.run_in_executor(self._pool, self._decode_slice, todo, results)

    def _decode_slice(self, todo: _Todo, results: _Results) -> None:
        until = perf_counter() + _SLICE_S
        while not self._closing:
            try:
                number, image = todo.popleft()
            except IndexError:
                return
            results[number] = self._decode_one(image)
            if perf_counter() >= until:
                return

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
