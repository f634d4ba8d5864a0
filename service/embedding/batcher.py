"""Batching: images of many callers become batches of one model.

    embed() -----------> admission -> decode (threads) -> queue --> batching task -> model (thread)
    embed_in_turn() -> turn ----------> decode (threads) -> line ----^

A call is admitted whole or refused at once; the queue is fair between clients. A batch runs as soon
as the model is free, with the images that are queued: none waits for a fuller batch. While it runs,
a full next batch is submitted already. Batches of a slow model are smaller, so that a new image
waits for no long one. An image whose caller has left does not run. An image that cannot be embedded
fails alone.

Work that can wait, e.g. of a rollover, stands in a line besides the queue and is never refused.
Where both have images, the line gets its share of the model, neither more nor less: however many
callers there are, the line moves on, and it takes no caller's place in the queue. Where callers of
another model have images, a model that works for its line alone rests for as long as it worked:
models compute side by side, so that the line gets a quarter of the machine, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import ceil
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from models.wording import plural
from service.embedding.decode import CropDecoder
from service.embedding.engine import Engine
from service.embedding.fair_queue import FairQueue
from service.embedding.return_times import ReturnTimes
from service.errors import (
    BadImageError,
    CallError,
    EngineError,
    OverloadedError,
    ShuttingDownError,
)
from service.operations.metrics import Metrics
from service.types import Vector

log = logging.getLogger("resight.batcher")

BATCH_S = 0.25
"""Seconds that a batch takes, but for its last image, by the time that the last ones took."""

MIN_BATCH = 4
"""Images that a batch may have, however long they take."""

LINE_SHARE = 1 / 4
"""Of a busy model's images, those of the line."""

HURRY_SHARE = 1 / 2
"""The same, while the line has images of a hurried call."""

_STOPPED = "the server stopped; call again"
_FAULT = "the engine failed with an internal error; see the server's log"


@dataclass(eq=False, slots=True)
class Load:
    """What the batchers of one machine know of each other. queued: callers' images, of them all."""

    queued: int = 0


@dataclass(eq=False, slots=True)
class _Job:
    image: NDArray[np.uint8]
    future: asyncio.Future[Vector]
    queued_at: float


class Batcher:
    """Admission, queue and batching in front of one engine. Belongs to one event loop.

    max_batch: most images in one run; see `BATCH_S`. max_queue: most images admitted and not yet
    answered; see `FairQueue`. clock: seconds, monotonic.
    """

    def __init__(
        self,
        engine: Engine,
        decoder: CropDecoder,
        *,
        max_batch: int,
        max_queue: int,
        metrics: Metrics,
        load: Load | None = None,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._engine = engine
        self._load = load or Load()
        self._decoder = decoder
        self._max_batch = max_batch
        self._batch = max_batch
        self._metrics = metrics
        self._clock = clock
        self._pending = 0
        self._hurried = 0
        self._credit = 0.0
        self._rests = False
        self._turn = asyncio.Lock()
        self._closing = False
        self._stopped = False
        self._queue: FairQueue[_Job] = FairQueue(max_queue)
        self._line: deque[_Job] = deque()
        self._in_flight = 0
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._seconds_per_image = 0.01
        self._images_per_call = 1.0
        self._return_times = ReturnTimes()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="resight-engine")
        self._running: set[asyncio.Task[None]] = set()
        self._task = asyncio.create_task(self._dispatch(), name="resight-batcher")

    @property
    def waiting(self) -> int:
        """Decoded images that wait for the model."""
        return len(self._queue) + len(self._line)

    async def embed(self, images: Sequence[bytes], client: str) -> list[Vector | CallError]:
        """One (D,) float32 vector of unit length, or its error, per image.

        client: who asks; the queue is fair between clients.

        Raises:
            OverloadedError: too many images are waiting already; nothing was done.
            ShuttingDownError: the batcher is closing; nothing was done.
        """
        self.require_room(client, len(images))
        call = self._queue.admit(client, len(images))
        self._images_per_call += 0.2 * (len(images) - self._images_per_call)
        self._take_places(len(images))
        self._load.queued += len(images)
        try:
            return await self._embed(images, partial(self._queue.push, call))
        finally:
            if gone := self._queue.release(call):
                self._metrics.images.labels("gone").inc(gone)
            self._load.queued -= len(images)

    async def embed_in_turn(
        self, images: Sequence[bytes], *, hurry: bool = False
    ) -> list[Vector | CallError]:
        """As `embed`, but a full queue does not refuse it: it waits for its turn.

        Calls take turns in their order, one at a time. hurry: takes no turn, goes to the front of
        the line, and has the line get more of the model.

        Raises:
            ShuttingDownError: the batcher is closing; nothing was done.
        """
        if not hurry:
            async with self._turn:
                return await self._embed_in_line(images, self._line.append)
        self._hurried += 1
        try:
            return await self._embed_in_line(images, self._line.appendleft)
        finally:
            self._hurried -= 1

    async def _embed_in_line(
        self, images: Sequence[bytes], add: Callable[[_Job], None]
    ) -> list[Vector | CallError]:
        self._check_open()
        self._take_places(len(images))
        return await self._embed(images, add)

    async def _embed(
        self, images: Sequence[bytes], add: Callable[[_Job], None]
    ) -> list[Vector | CallError]:
        """Embed images that have their places, and give these back."""
        try:
            decoded = await self._decoder.decode(images)
            results = await asyncio.gather(
                *(self._enqueue(item, add) for item in decoded if isinstance(item, np.ndarray)),
                return_exceptions=True,
            )
        finally:
            self._release(len(images))
        vectors = iter(results)
        return [self._outcome(next(vectors) if isinstance(i, np.ndarray) else i) for i in decoded]

    async def close(self, drain_s: float) -> None:
        """Refuse new calls, wait at most `drain_s` seconds for the admitted ones, stop."""
        self._closing = True
        if not self._idle.is_set():
            try:
                await asyncio.wait_for(self._idle.wait(), drain_s)
            except TimeoutError:
                log.warning("images not embedded before the end of the drain: %d", self._pending)
        # Not by cancelling it: the error would keep the batcher, and its engine, in a cycle.
        self._stopped = True
        self._changed.set()
        await asyncio.wait([self._task])
        for jobs in (self._queue, self._line):
            while jobs:
                job = jobs.popleft()
                if not job.future.done():
                    job.future.set_exception(ShuttingDownError(_STOPPED))
        await asyncio.gather(*self._running)
        self._thread.shutdown(wait=True)
        self._decoder.close()

    def _works_aside(self) -> bool:
        """Whether only the line has images here, and callers of other models have some."""
        return not self._queue and not self._hurried and self._load.queued > self._queue.held

    def _check_open(self) -> None:
        if self._closing:
            self._metrics.rejected.labels("shutdown").inc()
            raise ShuttingDownError("the server is stopping; send the call again later")

    def has_room(self, client: str, images: int = 1) -> bool:
        """Whether so many images of a client are admitted, if the batcher is open."""
        return self._queue.has_room(client, images)

    def require_room(self, client: str, images: int | None = None) -> None:
        """Raise what `embed` would raise for so many images, if it were called now.

        images: None where they are not known yet: room for one is required.
        """
        self._check_open()
        if self.has_room(client, images or 1):
            return
        queued, most = self._queue.held, self._queue.most
        self._metrics.rejected.labels("queue").inc()
        wait = self._return_times.wait(
            client,
            (images or self._images_per_call) * self._seconds_per_image,
            now=self._clock(),
            full_s=queued * self._seconds_per_image,
        )
        raise OverloadedError(
            f"{plural(queued, 'image')} wait for the model (its queue is full from {most} on); try "
            f"again in {wait:.2f} s",
            retry_after_s=wait,
        )

    def _take_places(self, images: int) -> None:
        self._pending += images
        self._idle.clear()
        self._metrics.queue_depth.inc(images)

    def _release(self, images: int) -> None:
        self._pending -= images
        self._metrics.queue_depth.dec(images)
        if self._pending == 0:
            self._idle.set()

    def _enqueue(
        self, image: NDArray[np.uint8], add: Callable[[_Job], None]
    ) -> asyncio.Future[Vector]:
        future: asyncio.Future[Vector] = asyncio.get_running_loop().create_future()
        if self._stopped:
            future.set_exception(ShuttingDownError(_STOPPED))
            return future
        add(_Job(image, future, self._clock()))
        self._changed.set()
        return future

    def _outcome(self, item: Vector | CallError | BaseException) -> Vector | CallError:
        if isinstance(item, np.ndarray):
            self._metrics.images.labels("embedded").inc()
            return item
        if isinstance(item, EngineError):
            self._metrics.images.labels("failed").inc()
            return item
        if isinstance(item, BadImageError):
            self._metrics.images.labels("bad").inc()
            return item
        raise item

    async def _dispatch(self) -> None:
        while not self._stopped:
            await self._changed.wait()
            self._changed.clear()
            while not self._stopped:
                aside = self._works_aside()
                batch = self._next_batch(aside)
                if not batch:
                    break
                self._in_flight += 1
                task = asyncio.create_task(self._run(batch, aside))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    def _next_batch(self, aside: bool) -> list[_Job]:
        # At most one batch waits behind the running one, and only a full one: images that arrive
        # meanwhile can still join.
        if self._in_flight > (1 if self.waiting >= self._batch and not aside else 0):
            return []
        if aside and self._rests:
            return []
        share = HURRY_SHARE if self._hurried else LINE_SHARE
        batch = self._take(self._line, min(int(self._credit), self._batch))
        from_line = len(batch)
        batch += self._take(self._queue, self._batch - len(batch))
        # What the queue was given counts for the line; an empty line saves up one batch at most.
        earned = (len(batch) - from_line) * share / (1 - share)
        self._credit = min(self._credit - from_line + earned, self._batch)
        return batch + self._take(self._line, self._batch - len(batch))

    def _take(self, jobs: deque[_Job] | FairQueue[_Job], most: int) -> list[_Job]:
        taken: list[_Job] = []
        while jobs and len(taken) < most:
            job = jobs.popleft()
            if job.future.done():
                self._metrics.images.labels("gone").inc()
            else:
                taken.append(job)
        return taken

    async def _run(self, batch: list[_Job], aside: bool) -> None:
        started = self._clock()
        for job in batch:
            self._metrics.stage_duration.labels("queue").observe(started - job.queued_at)
        images = [job.image for job in batch]
        outcomes: Sequence[Vector | EngineError]
        try:
            outcomes, took = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._timed, images
            )
        except Exception:  # no memory, or no thread: the next batch may have them
            log.exception("a batch of %d could not be run", len(batch))
            outcomes = [EngineError(_FAULT)] * len(batch)
        else:
            self._ran(len(batch), took, aside)
        self._in_flight -= 1
        self._changed.set()
        for job, outcome in zip(batch, outcomes, strict=True):
            if job.future.done():
                continue
            if isinstance(outcome, EngineError):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)

    def _ran(self, images: int, seconds: float, aside: bool) -> None:
        """Learn how long the model takes."""
        if aside:
            self._rest(seconds)
        self._metrics.batch_size.observe(images)
        self._seconds_per_image += 0.2 * (seconds / images - self._seconds_per_image)
        # Rounded up: where a run of any size takes nearly as long, it could never grow again.
        most = ceil(BATCH_S / max(self._seconds_per_image, 1e-9))
        self._batch = min(max(most, MIN_BATCH), self._max_batch)

    def _rest(self, seconds: float) -> None:
        def rested() -> None:
            self._rests = False
            self._changed.set()

        self._rests = True
        asyncio.get_running_loop().call_later(seconds, rested)

    def _timed(self, images: list[NDArray[np.uint8]]) -> tuple[list[Vector | EngineError], float]:
        """The outcomes, and the seconds that the model took, without those before it was free."""
        started = self._clock()
        outcomes = self._infer(images)
        return outcomes, self._clock() - started

    def _infer(self, images: list[NDArray[np.uint8]]) -> list[Vector | EngineError]:
        try:
            with self._metrics.stage("infer"):
                vectors = self._engine.embed(np.stack(images))
        except EngineError as error:
            if len(images) == 1:
                return [error]
            # One image may have failed the batch: run each alone, so that the others do not fail.
            return [outcome for image in images for outcome in self._infer([image])]
        except Exception:
            log.exception("the engine failed on a batch of %d", len(images))
            return [EngineError(_FAULT) for _ in images]
        finite = [bool(np.isfinite(vector).all()) for vector in vectors]
        return [
            vector
            if sound
            else EngineError("the model gave NaN or infinity for this image; leave it out")
            for vector, sound in zip(vectors, finite, strict=True)
        ]
