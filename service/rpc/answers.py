"""Large answers: bounded in bytes, one by one and all together, and made beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from google.protobuf.message import Message

from service.errors import BadLimitError, OverloadedError
from service.operations.metrics import Metrics
from service.rpc.budget import ByteBudget, Reservation
from service.rpc.calls import TURN_S, Context, when_over

MAX_SIGHTING_BYTES = 2_000
"""Most bytes of a sighting on the wire, without attributes and image."""

MAX_ATTRIBUTES_BYTES = 140_000
"""Most bytes of a sighting's attributes on the wire."""

MAX_CAMERA_BYTES = 600
"""Most bytes of a camera on the wire."""

MAX_UNKNOWN_BYTES = 50_000
"""Most bytes of the values of a filter that no sighting has, on the wire."""

MAX_ERROR_BYTES = 1_000
"""Most bytes of an item's error on the wire."""


class Answers:
    """Makes large answers.

    max_bytes: of one answer. total: bytes of all that are being made or sent. threads: answers that
    are converted at a time. freed: is told the bytes of each answer that is not needed any more.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        max_bytes: int,
        total: int,
        threads: int,
        freed: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.max_bytes = max_bytes
        self._metrics = metrics
        self._budget = ByteBudget(total, freed)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="resight-answer")

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True)

    async def reserve(self, expected: int, context: Context) -> Reservation:
        """Bytes for an answer that is going to be made, until its call is over.

        expected: the most that it can take, if it were not bounded.

        Raises:
            OverloadedError: the turn of the call did not come.
        """
        try:
            reservation = await self._budget.reserve(
                min(expected, self.max_bytes), context.peer(), at_most_s=TURN_S
            )
        except OverloadedError:
            self._metrics.rejected.labels("bytes").inc()
            raise
        when_over(context, lambda _: reservation.release())
        return reservation

    async def make(
        self, work: Callable[[], bytes], reservation: Reservation | None = None
    ) -> bytes:
        """What `work` gives, in a thread. Of the reserved bytes those that it takes are kept."""
        answer = await asyncio.get_running_loop().run_in_executor(self._pool, work)
        if reservation is not None:
            reservation.shrink(len(answer))
        return answer


def joined(parts: Iterable[Message], max_bytes: int, advice: str) -> bytes:
    """One message, serialized, of parts: messages of its type, each with some of its fields.

    Parts are made one by one: what is too large is never there as a whole.

    Raises:
        BadLimitError: it would have more than `max_bytes`; advice: what the caller can do.
    """
    pieces: list[bytes] = []
    size = 0
    for part in parts:
        pieces.append(part.SerializeToString())
        size += len(pieces[-1])
        if size > max_bytes:
            raise too_large(max_bytes, advice)
    return b"".join(pieces)


def fitting(parts: Iterable[Message], max_bytes: int) -> list[bytes]:
    """The first parts of a page, serialized: at most `max_bytes` together, but at least one."""
    pieces: list[bytes] = []
    size = 0
    for part in parts:
        piece = part.SerializeToString()
        size += len(piece)
        if pieces and size > max_bytes:
            break
        pieces.append(piece)
    return pieces


def with_extra(answer: bytes, extra: Message, max_bytes: int) -> bytes:
    """The answer with further fields, where it then has at most `max_bytes`; else without."""
    added = extra.SerializeToString()
    return answer + added if len(answer) + len(added) <= max_bytes else answer


def too_large(max_bytes: int, advice: str) -> BadLimitError:
    """The error for an answer that would have more than `max_bytes`."""
    return BadLimitError(
        f"the answer would have more than {max_bytes} bytes (RESIGHT_MAX_ANSWER_BYTES); {advice}"
    )
