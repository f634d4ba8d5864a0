"""Requests on their way in: bytes are counted before they are read, and parsed beside the loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

import grpc.aio
from google.protobuf.message import DecodeError

from service.errors import BadMessageError, OverloadedError
from service.operations.metrics import Metrics
from service.rpc.budget import ByteBudget, Reservation
from service.rpc.calls import TURN_S, Context, when_over

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

LARGE = 256 * 1024
"""Bytes of a message above which it is parsed in a thread."""


class Arrival:
    """Reads requests. A call that is read reserves the largest size: its own is not known before.

    max_message: bytes of the largest request. with_images: bytes of all requests with images that
    are held at a time. max_transfer_s: seconds in which a request has to arrive. freed: is told the
    bytes of each request that is not needed any more.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        max_message: int,
        with_images: int,
        max_transfer_s: float,
        freed: Callable[[int], None],
    ) -> None:
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
        reservation = await self._turn(budget, context)
        when_over(context, lambda _: reservation.release())
        raw = await self._receive(context)
        if raw is None:
            raise BadMessageError("the call has no message; send one")
        reservation.shrink(len(raw))
        return await _parsed(raw, parse)

    async def all(self, parse: Callable[[bytes], T], context: Context) -> AsyncGenerator[T]:
        """The requests of a stream of reflection; each one's bytes count until it is answered."""
        while True:
            reservation = await self._turn(self._foreign, context)
            try:
                raw = await self._receive(context)
                if raw is None:
                    return
                reservation.shrink(len(raw))
                yield await _parsed(raw, parse)
            finally:
                reservation.release()

    async def _turn(self, budget: ByteBudget, context: Context) -> Reservation:
        try:
            return await budget.reserve(self._max_message, context.peer(), at_most_s=TURN_S)
        except OverloadedError:
            self._metrics.rejected.labels("bytes").inc()
            raise

    async def _receive(self, context: Context) -> bytes | None:
        """The next message, None where there is none."""
        try:
            async with asyncio.timeout(self._max_transfer_s):
                raw = await context.read()
        except TimeoutError as error:
            raise BadMessageError(
                f"the request has not arrived within {self._max_transfer_s:g} s; send fewer images "
                "per call, or raise the server's RESIGHT_MAX_TRANSFER_S"
            ) from error
        return None if raw is grpc.aio.EOF else raw  # type: ignore[attr-defined] # lacks in the stubs


async def _parsed(raw: bytes, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(raw) if len(raw) < LARGE else await asyncio.to_thread(parse, raw)
    except DecodeError as error:
        raise BadMessageError(
            "the request is not a message of this method; use the protos of the server's version"
        ) from error
