"""Requests on their way in: bytes are counted before they are read, and parsed beside the loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

import grpc.aio
from google.protobuf.message import DecodeError

from service.errors import BadMessageError, OverloadedError
from service.operations.metrics import Metrics
from service.rpc.budget import RETRY_S, ByteBudget, Reservation
from service.rpc.calls import Context, when_over

T = TypeVar("T")

WITH_IMAGES = (
    "GalleryService/EnrollSightings",
    "GalleryService/SearchSightings",
    "EmbeddingService/Embed",
)
"""Methods whose requests are large. Those of others are small, and do not wait for these."""

WITHOUT_IMAGES = 8
"""Requests without images that may arrive at a time, each of the largest size."""

FOREIGN = 4
"""Requests of health and reflection that may arrive at a time, each of the largest size."""

EMBEDDED = ("GalleryService/EnrollSightings", "EmbeddingService/Embed")
"""Methods whose requests have images always: without room for these they are refused unread."""

ARRIVAL_S = 4.0
"""How long a call waits for its turn to arrive, in seconds."""

SLOW_S = 2.0
"""Seconds after which a request that has not arrived makes room for others that wait."""

_LOOK_S = 0.5

LARGE = 256 * 1024
"""Bytes of a message above which it is parsed in a thread."""


class Arrival:
    """Reads requests. A call that is read reserves the largest size: its own is not known before.

    max_message: bytes of the largest request. with_images: bytes of all requests with images that
    are held at a time. max_transfer_s: seconds in which a request has to arrive. freed: is told the
    bytes of each request that is not needed any more. require_room: raises `OverloadedError` where
    no model has room for an image.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        max_message: int,
        with_images: int,
        max_transfer_s: float,
        freed: Callable[[int], None],
        require_room: Callable[[], None],
    ) -> None:
        self._require_room = require_room
        self._metrics = metrics
        self._max_message = max_message
        self._max_transfer_s = max_transfer_s
        self._with_images = ByteBudget(with_images, freed)
        self._without_images = ByteBudget(WITHOUT_IMAGES * max_message, freed)
        self._foreign = ByteBudget(FOREIGN * max_message, freed)

    async def read(self, method: str, parse: Callable[[bytes], T], context: Context) -> T:
        """The only request of a call; its bytes count until the call is over.

        method: "Service/Method" of ours; "" of health and reflection.

        Raises:
            OverloadedError: the turn of the call did not come.
            BadMessageError: there is no message, or another one, or it takes too long.
        """
        budget = (
            self._with_images
            if method in WITH_IMAGES
            else self._without_images
            if method
            else self._foreign
        )
        if method in EMBEDDED:
            self._require_room()
        reservation = await self._turn(budget, context)
        when_over(context, lambda _: reservation.release())
        raw = await self._receive(context, reservation)
        if raw is None:
            raise BadMessageError("the call has no message; send one")
        reservation.shrink(len(raw))
        return await _parsed(raw, parse)

    async def all(self, parse: Callable[[bytes], T], context: Context) -> AsyncGenerator[T]:
        """The requests of a stream of reflection; each one's bytes count until it is answered."""
        while True:
            reservation = await self._turn(self._foreign, context)
            try:
                raw = await self._receive(context, reservation)
                if raw is None:
                    return
                reservation.shrink(len(raw))
                yield await _parsed(raw, parse)
            finally:
                reservation.release()

    async def _turn(self, budget: ByteBudget, context: Context) -> Reservation:
        try:
            return await budget.reserve(self._max_message, context.peer(), at_most_s=ARRIVAL_S)
        except OverloadedError:
            self._metrics.rejected.labels("bytes").inc()
            raise

    async def _receive(self, context: Context, reservation: Reservation) -> bytes | None:
        """The next message, None where there is none."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        reading = asyncio.ensure_future(context.read())
        try:
            while not reading.done():
                taken = loop.time() - begun
                if taken >= self._max_transfer_s:
                    raise BadMessageError(
                        f"the request has not arrived within {self._max_transfer_s:g} s; send "
                        "fewer images per call, or raise the server's RESIGHT_MAX_TRANSFER_S"
                    )
                if taken >= SLOW_S and reservation.wanted:
                    reservation.release()
                    self._metrics.rejected.labels("bytes").inc()
                    raise OverloadedError(
                        f"the request has not arrived within {SLOW_S:g} s, and others wait; try "
                        f"again in {RETRY_S} s, with fewer images per call",
                        retry_after_s=RETRY_S,
                    )
                await asyncio.wait({reading}, timeout=min(_LOOK_S, self._max_transfer_s - taken))
            raw = reading.result()
        finally:
            reading.cancel()
        return None if raw is grpc.aio.EOF else raw  # type: ignore[attr-defined] # lacks in the stubs


async def _parsed(raw: bytes, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(raw) if len(raw) < LARGE else await asyncio.to_thread(parse, raw)
    except DecodeError as error:
        raise BadMessageError(
            "the request is not a message of this method; use the protos of the server's version"
        ) from error
