"""Requests on their way in: bytes are counted before they are read, and parsed beside the loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
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

LISTS = "GalleryService/ListSightings"
"""The method without images whose requests may have some MB: its filter has long lists."""

MAX_LIST_BYTES = 2_250_000
"""Most bytes of a request of `LISTS`: 4 lists of 1000 values of 128 characters, and the rest."""

MAX_SMALL_BYTES = 64 * 1024
"""Most bytes of a request without images: of an adaptation with 64 overrides."""

MAX_FOREIGN_BYTES = 16 * 1024
"""Most bytes of a request of health and reflection."""

# gRPC has one largest size for all methods, and reads a request whole before it can be refused. So
# each place is one of the largest size, however small the requests of its kind are.
SMALL_PLACES = 16
"""Requests without images that may arrive at a time."""

LIST_PLACES = 4
"""Requests of `LISTS` that may arrive at a time."""

HEALTH_PLACES = 8
"""Requests of health that may arrive at a time."""

REFLECTION_PLACES = 4
"""Requests of reflection that may arrive at a time."""

EMBEDDED = ("GalleryService/EnrollSightings", "EmbeddingService/Embed")
"""Methods whose requests have images always: without room for these they are refused unread."""

ARRIVAL_S = 4.0
"""How long a call waits for its turn to arrive, in seconds."""

SLOW_S = 2.0
"""Seconds after which a request that has not arrived makes room for others that wait."""

SLOW_SMALL_S = 0.1
"""The same for requests without images: these come together with the start of their call."""

_LOOK_S = 0.5

LARGE = 256 * 1024
"""Bytes of a message above which it is parsed in a thread."""


class Arrival:
    """Reads requests. A call that is read reserves the largest size: its own is not known before.

    max_message: bytes of the largest request. with_images: bytes of all requests with images that
    are held at a time. max_transfer_s: seconds in which a request has to arrive. freed: is told the
    bytes of each request that is not needed any more. require_room: raises `OverloadedError` where
    no model has room for an image of a client.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        max_message: int,
        with_images: int,
        max_transfer_s: float,
        freed: Callable[[int], None],
        require_room: Callable[[str], None],
    ) -> None:
        self._require_room = require_room
        self._metrics = metrics
        self._max_message = max_message
        self._max_transfer_s = max_transfer_s

        def kind(places: int, largest: int) -> _Kind:
            return _Kind(
                ByteBudget(places * max_message, freed), largest, SLOW_SMALL_S, SLOW_SMALL_S
            )

        self._with_images = _Kind(ByteBudget(with_images, freed), max_message, SLOW_S, _LOOK_S)
        self._lists = kind(LIST_PLACES, MAX_LIST_BYTES)
        self._small = kind(SMALL_PLACES, MAX_SMALL_BYTES)
        self._health = kind(HEALTH_PLACES, MAX_FOREIGN_BYTES)
        self._reflection = kind(REFLECTION_PLACES, MAX_FOREIGN_BYTES)

    async def read(self, method: str, parse: Callable[[bytes], T], context: Context) -> T:
        """The only request of a call; its bytes count until the call is over.

        method: "Service/Method" of ours; "" of health.

        Raises:
            OverloadedError: the turn of the call did not come.
            BadMessageError: there is no message, another one, a too large one, or it takes too
                long.
        """
        kind = self._kind(method)
        if method in EMBEDDED:
            self._require_room(context.peer())
        reservation = await self._turn(kind, context)
        when_over(context, lambda _: reservation.release())
        raw = await self._receive(kind, context, reservation)
        if raw is None:
            raise BadMessageError("the call has no message; send one")
        reservation.shrink(len(raw))
        return await _parsed(raw, parse)

    async def all(self, parse: Callable[[bytes], T], context: Context) -> AsyncGenerator[T]:
        """The requests of a stream of reflection; each one's bytes count until it is answered."""
        while True:
            reservation = await self._turn(self._reflection, context)
            try:
                raw = await self._receive(self._reflection, context, reservation)
                if raw is None:
                    return
                reservation.shrink(len(raw))
                yield await _parsed(raw, parse)
            finally:
                reservation.release()

    def _kind(self, method: str) -> _Kind:
        if not method:
            return self._health
        if method in WITH_IMAGES:
            return self._with_images
        return self._lists if method == LISTS else self._small

    async def _turn(self, kind: _Kind, context: Context) -> Reservation:
        try:
            return await kind.budget.reserve(self._max_message, context.peer(), at_most_s=ARRIVAL_S)
        except OverloadedError:
            self._metrics.rejected.labels("bytes").inc()
            raise

    async def _receive(
        self, kind: _Kind, context: Context, reservation: Reservation
    ) -> bytes | None:
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
                if taken >= kind.slow_s and reservation.wanted:
                    reservation.release()
                    self._metrics.rejected.labels("bytes").inc()
                    raise OverloadedError(
                        f"the request has not arrived within {kind.slow_s:g} s, and others wait; "
                        f"try again in {RETRY_S} s, with fewer images per call",
                        retry_after_s=RETRY_S,
                    )
                look_s = min(kind.look_s, self._max_transfer_s - taken)
                await asyncio.wait({reading}, timeout=look_s)
            raw = reading.result()
        finally:
            reading.cancel()
        message: bytes | None
        message = None if raw is grpc.aio.EOF else raw  # type: ignore[attr-defined] # not in stubs
        if message is not None and len(message) > kind.largest:
            raise BadMessageError(
                f"the request has {len(message)} bytes, more than the {kind.largest} that one of "
                "this method can have; send a smaller one"
            )
        return message


@dataclass(frozen=True, slots=True)
class _Kind:
    """Requests that share places.

    largest: bytes of one. slow_s: see `SLOW_S`. look_s: seconds between two looks whether others
    wait.
    """

    budget: ByteBudget
    largest: int
    slow_s: float
    look_s: float


async def _parsed(raw: bytes, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(raw) if len(raw) < LARGE else await asyncio.to_thread(parse, raw)
    except DecodeError as error:
        raise BadMessageError(
            "the request is not a message of this method; use the protos of the server's version"
        ) from error
