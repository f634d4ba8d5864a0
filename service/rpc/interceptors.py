"""Around every call: admission, arrival of its message, errors as statuses, metrics, log.

All of our methods are registered as methods that take a stream of requests. On the wire they are
the same as those that take one. But gRPC then reads a message only when it is asked for: calls are
refused before they are read, and no more bytes arrive than there is memory for.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from time import perf_counter
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.message import Message
from grpc_status import rpc_status

from service.errors import CallError, InternalError, OverloadedError, ShuttingDownError
from service.operations.metrics import Metrics
from service.rpc.arrival import Arrival
from service.rpc.budget import RETRY_S
from service.rpc.calls import Context, when_over
from service.rpc.connections import LOOK_S, IdleConnections, close_connections, peer_address
from service.rpc.convert import status
from service.rpc.faults import Faults

log = logging.getLogger("resight.rpc")

_OURS = "/resight.v1."
_WATCH = "AdaptationService/WatchAdaptation"
_FOREIGN = "streams of health and reflection"
_HEALTH = "calls of health"


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # not generic at runtime
    """Wraps all calls. Those of health and reflection are not measured.

    arrival: reads the requests. max_concurrent: most calls at a time; further ones are refused at
    once. max_streams: likewise most watches, most rollovers, and most streams of health and
    reflection, which may last for hours and so do not take the places of calls. max_transfer_s:
    seconds in which a client has to read an answer.
    """

    def __init__(
        self,
        metrics: Metrics,
        arrival: Arrival,
        connections: IdleConnections,
        *,
        max_concurrent: int,
        max_streams: int,
        max_transfer_s: float,
    ) -> None:
        self._metrics = metrics
        self._arrival = arrival
        self._connections = connections
        self._limits = {
            "calls": max_concurrent,
            "watches": max_streams,
            "rollovers": max_streams,
            _FOREIGN: max_streams,
            _HEALTH: max_concurrent,
        }
        self._max_transfer_s = max_transfer_s
        self._faults = Faults()
        self._running: Counter[str] = Counter()
        self._closing: set[asyncio.Task[None]] = set()
        # Of each client those whose requests have not arrived.
        self._arriving: dict[str, Counter[str]] = {kind: Counter() for kind in self._limits}
        self._unanswered = 0
        self._all_answered = asyncio.Event()
        self._all_answered.set()
        self._finishing = False

    async def finish(self, at_most_s: float) -> None:
        """Refuse new calls; wait until those that run are answered, at most some seconds."""
        self._finishing = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._all_answered.wait(), at_most_s)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Called by grpc for each call."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return handler
        if not method.startswith(_OURS):
            return self._foreign(handler)
        label = method.removeprefix(_OURS)
        if handler.unary_unary is not None:
            return grpc.stream_unary_rpc_method_handler(self._unary(label, handler))
        return grpc.stream_stream_rpc_method_handler(self._stream(label, handler))

    def _unary(self, method: str, handler: Any) -> Callable[[Any, Context], Awaitable[bytes]]:
        async def call(_: Any, context: Context) -> bytes:
            with self._watched(method, context) as outcome:
                try:
                    request = await self._request("calls", method, handler, context)
                    answer = _serialized(await handler.unary_unary(request, context))
                except Exception as error:  # noqa: BLE001 - the outermost of our frames
                    failure = outcome.failed(error)
                else:
                    sending = self._limit_sending(context)
                    when_over(context, lambda _: sending.cancel())
                    return answer
                return await _abort(failure, context)

        return call

    def _stream(self, method: str, handler: Any) -> Callable[[Any, Context], Awaitable[None]]:
        async def call(_: Any, context: Context) -> None:
            with self._watched(method, context) as outcome:
                try:
                    kind = "watches" if method == _WATCH else "rollovers"
                    request = await self._request(kind, method, handler, context)
                    async with aclosing(handler.unary_stream(request, context)) as answers:
                        async for answer in answers:
                            sending = self._limit_sending(context)
                            try:
                                await context.write(_serialized(answer))
                            finally:
                                sending.cancel()
                except Exception as error:  # noqa: BLE001 - the outermost of our frames
                    failure = outcome.failed(error)
                else:
                    return
                await _abort(failure, context)

        return call

    def _foreign(self, handler: Any) -> Any:
        """A handler of health or reflection, whose messages are read as those of ours are."""
        arrival, connections = self._arrival, self._connections
        parse = handler.request_deserializer

        async def one(_: Any, context: Context) -> Any:
            connections.begin(context)
            try:
                kind = _HEALTH if handler.unary_stream is None else _FOREIGN
                with self._arrives(kind, context):
                    request = await arrival.read("", parse, context)
                if handler.unary_stream is not None:
                    self._admit(_FOREIGN, context)
            except CallError as error:
                failure = _without_frames(error)
            else:
                return await (handler.unary_unary or handler.unary_stream)(request, context)
            return await _abort(failure, context)

        async def many(_: Any, context: Context) -> AsyncIterator[Any]:
            connections.begin(context)
            try:
                async with aclosing(arrival.all(parse, context)) as requests:
                    counted = self._counted(requests, context)
                    async for answer in handler.stream_stream(counted, context):
                        yield answer
            except CallError as error:
                failure = _without_frames(error)
            else:
                return
            await _abort(failure, context)

        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(many, None, handler.response_serializer)
        if handler.unary_stream is not None:
            return grpc.stream_stream_rpc_method_handler(one, None, handler.response_serializer)
        return grpc.stream_unary_rpc_method_handler(one, None, handler.response_serializer)

    async def _counted(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        """The requests of reflection; its stream counts from the first one on."""
        with self._arrives(_FOREIGN, context):
            first = await anext(requests, None)
        if first is None:
            return
        self._admit(_FOREIGN, context)
        yield first
        async for request in requests:
            yield request

    async def _request(self, kind: str, method: str, handler: Any, context: Context) -> Any:
        """The request of a call; from its arrival on the call counts until its answer is sent.

        Not before: calls that send nothing would take the places of those that do.
        """
        if self._finishing:
            self._metrics.rejected.labels("shutdown").inc()
            raise ShuttingDownError("the server is stopping")
        with self._arrives(kind, context):
            self._metrics.rpc_in_flight.inc()
            when_over(context, lambda _: self._metrics.rpc_in_flight.dec())
            request = await self._arrival.read(method, handler.request_deserializer, context)
        self._admit(kind, context)
        return request

    @contextmanager
    def _arrives(self, kind: str, context: Context) -> Iterator[None]:
        """Within this block the request of a call arrives; refuse it where too many do."""
        arriving, client = self._arriving[kind], context.peer()
        # A client with few calls comes in always; all others share what is left of the limit.
        if arriving.total() >= self._limits[kind] <= arriving[client] * len(arriving):
            raise self._too_many(kind)
        self._require_place(kind)
        arriving[client] += 1
        try:
            yield
        finally:
            arriving[client] -= 1
            if not arriving[client]:
                del arriving[client]

    def _admit(self, kind: str, context: Context) -> None:
        """Count a call until its answer is sent or its client is gone."""
        self._require_place(kind)

        def ended(_: Context) -> None:
            self._running[kind] -= 1

        self._running[kind] += 1
        when_over(context, ended)

    def _require_place(self, kind: str) -> None:
        if self._running[kind] >= self._limits[kind]:
            raise self._too_many(kind)

    def _too_many(self, kind: str) -> OverloadedError:
        self._metrics.rejected.labels("concurrency").inc()
        return OverloadedError(
            f"{self._limits[kind]} {kind} are running already; try again in {RETRY_S} s",
            retry_after_s=RETRY_S,
        )

    def _limit_sending(self, context: Context) -> asyncio.TimerHandle:
        """End the connection of a client that does not read its answer in time.

        gRPC has no other way to end a call of which it holds an answer.
        """

        def end() -> None:
            log.warning(
                "%s has not read an answer within %g s: its connection is closed",
                peer,
                self._max_transfer_s,
            )
            closing = loop.create_task(self._close(peer))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

        loop, peer = asyncio.get_running_loop(), context.peer()
        return loop.call_later(self._max_transfer_s, end)

    async def _close(self, peer: str) -> None:
        """Close a client's connection; where no descriptor is free to find it with, later."""
        while True:
            try:
                await asyncio.to_thread(close_connections, {peer_address(peer)})
            except OSError as error:
                log.warning("the connection of %s cannot be closed now: %s", peer, error)
                await asyncio.sleep(LOOK_S)
            else:
                return

    @contextmanager
    def _watched(self, method: str, context: Context) -> Iterator[_Outcome]:
        outcome = _Outcome(method, self._faults)
        self._connections.begin(context)
        if not self._finishing:  # what is refused then is not waited for
            self._unanswered += 1
            self._all_answered.clear()
            # Not at the end of this block: the answer is sent after it.
            when_over(context, self._answered)
        started = perf_counter()
        try:
            yield outcome
        except asyncio.CancelledError:
            outcome.code = "CANCELLED"
            raise
        finally:
            self._metrics.rpc_duration.labels(method, outcome.code).observe(
                perf_counter() - started
            )

    def _answered(self, _: Context) -> None:
        self._unanswered -= 1
        if self._unanswered == 0:
            self._all_answered.set()


class _Outcome:
    """How a call ended."""

    def __init__(self, method: str, faults: Faults) -> None:
        self.method = method
        self._faults = faults
        self.code = "OK"

    def failed(self, error: Exception) -> CallError:
        """What to answer to an error; any but `CallError` is an internal error."""
        if not isinstance(error, CallError):
            self._faults.tell(self.method, error)
            error = InternalError("an internal error of the server; see its log")
        self.code = error.code.name
        return _without_frames(error)


def _without_frames(error: CallError) -> CallError:
    """An error to answer with: without frames, in which e.g. all matches of a search are.

    grpc keeps the error that it ends a call with, and what was being handled at that time, in a
    cycle. So `_abort` is called outside of `except`.
    """
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


async def _abort(error: CallError, context: Context) -> NoReturn:
    answer = rpc_status.to_status(status(error))
    await context.abort(answer.code, answer.details, answer.trailing_metadata)


def _serialized(answer: Message | bytes) -> bytes:
    """An answer as it is sent; a large one is serialized by its servicer, in a thread."""
    return answer if isinstance(answer, bytes) else answer.SerializeToString()
