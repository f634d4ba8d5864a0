"""Around every call: admission, conversion of errors to statuses, metrics, log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from time import perf_counter
from typing import Any

import grpc
import grpc.aio
from grpc_status import rpc_status

from service.errors import CallError, InternalError, OverloadedError
from service.operations.metrics import Metrics
from service.rpc.calls import Context
from service.rpc.convert import status

log = logging.getLogger("resight.rpc")

_OURS = "/resight.v1."
_BUSY_RETRY_S = 0.5


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # not generic at runtime
    """Wraps the calls of our own services; health checks and reflection always pass.

    max_concurrent: most calls at a time; further ones are refused at once.
    """

    def __init__(self, metrics: Metrics, *, max_concurrent: int) -> None:
        self._metrics = metrics
        self._max_concurrent = max_concurrent
        self._running = 0
        self._unanswered = 0
        self._all_answered = asyncio.Event()
        self._all_answered.set()

    async def finish(self, at_most_s: float) -> None:
        """Wait until the answers of all calls are sent, at most some seconds."""
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
        if handler is None or not method.startswith(_OURS):
            return handler
        label = method.removeprefix(_OURS)
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(label, handler.unary_unary),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return grpc.unary_stream_rpc_method_handler(
            self._stream(label, handler.unary_stream),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _unary(
        self, method: str, inner: Callable[[Any, Context], Awaitable[Any]]
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        async def call(request: Any, context: Context) -> Any:
            with self._watched(method, context) as outcome:
                try:
                    self._admit()
                    return await inner(request, context)
                except Exception as error:  # noqa: BLE001 - the outermost of our frames
                    await outcome.abort(error, context)

        return call

    def _stream(
        self, method: str, inner: Callable[[Any, Context], AsyncIterator[Any]]
    ) -> Callable[[Any, Context], AsyncIterator[Any]]:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            with self._watched(method, context) as outcome:
                try:
                    self._admit()
                    async for message in inner(request, context):
                        yield message
                except Exception as error:  # noqa: BLE001 - the outermost of our frames
                    await outcome.abort(error, context)

        return call

    def _admit(self) -> None:
        if self._running > self._max_concurrent:
            self._metrics.rejected.labels("concurrency").inc()
            raise OverloadedError(
                f"{self._max_concurrent} calls are running already; try again in {_BUSY_RETRY_S} s",
                retry_after_s=_BUSY_RETRY_S,
            )

    @contextmanager
    def _watched(self, method: str, context: Context) -> Iterator[_Outcome]:
        outcome = _Outcome(method)
        self._unanswered += 1
        self._all_answered.clear()
        # Not at the end of this block: the answer is sent after it.
        context.add_done_callback(self._answered)  # type: ignore[arg-type] # no Protocol in the stubs
        started = perf_counter()
        self._running += 1
        self._metrics.rpc_in_flight.inc()
        try:
            yield outcome
        except asyncio.CancelledError:
            outcome.code = "CANCELLED"
            raise
        finally:
            self._running -= 1
            self._metrics.rpc_in_flight.dec()
            self._metrics.rpc_duration.labels(method, outcome.code).observe(
                perf_counter() - started
            )

    def _answered(self, _: Context) -> None:
        self._unanswered -= 1
        if self._unanswered == 0:
            self._all_answered.set()


class _Outcome:
    """How a call ended."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.code = "OK"

    async def abort(self, error: Exception, context: Context) -> None:
        """End the call with the status of an error; any but `CallError` is an internal error."""
        if not isinstance(error, CallError):
            log.error("%s failed", self.method, exc_info=error)
            error = InternalError("an internal error of the server; see its log")
        self.code = error.code.name
        answer = rpc_status.to_status(status(error))
        await context.abort_with_status(answer)  # type: ignore[attr-defined] # lacks in the stubs
