"""What clients do: coroutines for `Worker`, each with the calls that it made as its result.

Requests come as bytes and answers are not parsed, so that a client costs little beside the server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2

from service.rpc.pb.resight.v1 import site_pb2

EMBED = "/resight.v1.EmbeddingService/Embed"
ENROLL = "/resight.v1.GalleryService/EnrollSightings"
SEARCH = "/resight.v1.GalleryService/SearchSightings"
GET_SITE = "/resight.v1.SiteService/GetSite"
DELETE_SITE = "/resight.v1.SiteService/DeleteSite"
ACTIVATE = "/resight.v1.SiteService/ActivateModel"
REEMBED = "/resight.v1.SiteService/ReembedSite"
WATCH = "/resight.v1.AdaptationService/WatchAdaptation"

TIMEOUT_S = 120.0
"""Of a call: a server that has not answered by then has failed."""

_CALLERS_PER_CHANNEL = 8
_PAUSE_S = 0.1
_REFUSED_LATER = ("SITE_SWITCHING",)
_NOT_LOAD = ("STORE_FULL",)

Method: TypeAlias = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Call:
    """One call.

    began: `time.monotonic`, which processes of a machine share. seconds: until its end. reason: ""
    for an answer, else the reason of the error, or its code. refused: the server was too busy and
    said so. retry_s: when to come back, as the server says. size: bytes of the answer.
    """

    began: float
    seconds: float
    reason: str = ""
    refused: bool = False
    retry_s: float = 0.0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """A message of a rollover: at `time.monotonic`, embedded and all sightings."""

    at: float
    embedded: int
    total: int


def failed(began: float, error: grpc.aio.AioRpcError) -> Call:
    """The call that ended with an error."""
    code = error.code().name
    reason, retry_s = code, 0.0
    metadata = cast("Iterable[tuple[str, bytes]]", error.trailing_metadata() or ())
    for key, value in metadata:
        if key != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(value).details:
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                reason = info.reason
            elif detail.Unpack(retry):
                retry_s = retry.retry_delay.ToTimedelta().total_seconds()
    refused = (code == "RESOURCE_EXHAUSTED" and reason not in _NOT_LOAD) or (
        reason in _REFUSED_LATER
    )
    return Call(began, time.monotonic() - began, reason, refused, retry_s)


@asynccontextmanager
async def channels(address: str, count: int) -> AsyncIterator[list[Any]]:
    """Connections that share nothing, and take answers of any size."""
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    ]
    opened = [grpc.aio.insecure_channel(address, options) for _ in range(count)]
    try:
        yield opened
    finally:
        await asyncio.gather(*(channel.close(None) for channel in opened))


async def _call(method: Method, request: bytes, timeout_s: float = TIMEOUT_S) -> Call:
    began = time.monotonic()
    try:
        size = await method(request, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        return failed(began, error)
    return Call(began, time.monotonic() - began, size=size)


def _methods(opened: list[Any], path: str, callers: int) -> Iterator[Method]:
    """The method for each caller, on channels in turn; an answer becomes its size."""
    made = [channel.unary_unary(path, response_deserializer=len) for channel in opened]
    return (made[n % len(made)] for n in range(callers))


async def probe(
    stop: asyncio.Event, address: str, site: str, enrollment: bytes, every_s: float
) -> tuple[list[Call], list[Call]]:
    """GetSite and enrollment of one crop, one after the other each: the client that is watched."""
    asked = site_pb2.GetSiteRequest(name=f"sites/{site}").SerializeToString()
    async with channels(address, 2) as opened:
        got, enrolled = await asyncio.gather(
            _pace(stop, next(_methods(opened[:1], GET_SITE, 1)), asked, every_s),
            _pace(stop, next(_methods(opened[1:], ENROLL, 1)), enrollment, every_s),
        )
    return got, enrolled


async def _pace(stop: asyncio.Event, method: Method, request: bytes, every_s: float) -> list[Call]:
    calls = []
    while not stop.is_set():
        call = await _call(method, request)
        calls.append(call)
        await asyncio.sleep(max(every_s - call.seconds, 0.0))
    return calls


async def hammer(
    stop: asyncio.Event, address: str, path: str, request: bytes, callers: int, calls: int = 0
) -> list[Call]:
    """Callers that call again as soon as they may, until `stop`, or until so many are answered."""
    done: list[Call] = []
    left = calls

    async def caller(method: Method) -> None:
        nonlocal left
        while not stop.is_set() and (left > 0 or not calls):
            left -= 1
            call = await _call(method, request)
            done.append(call)
            if call.reason:
                left += 1
                await asyncio.sleep(call.retry_s or _PAUSE_S)

    async with channels(address, max(callers // _CALLERS_PER_CHANNEL, 1)) as opened:
        await asyncio.gather(*map(caller, _methods(opened, path, callers)))
    return done


async def burst(
    stop: asyncio.Event,
    address: str,
    path: str,
    request: bytes,
    count: int,
    timeout_s: float = TIMEOUT_S,
) -> list[Call]:
    """So many calls at once, each on a connection of its own."""
    async with channels(address, count) as opened:
        return await asyncio.gather(
            *(_call(method, request, timeout_s) for method in _methods(opened, path, count))
        )


async def watch(
    stop: asyncio.Event, address: str, request: bytes, count: int
) -> tuple[int, list[Call]]:
    """Watches of an adaptation: how many were open at `stop`, and those that had ended."""
    ended: list[Call] = []

    async def one(channel: Any) -> None:
        began = time.monotonic()
        try:
            async for _ in channel.unary_stream(WATCH)(request):
                pass
        except grpc.aio.AioRpcError as error:
            ended.append(failed(began, error))
        else:
            ended.append(Call(began, time.monotonic() - began, "ended"))

    async with channels(address, max(count // _CALLERS_PER_CHANNEL, 1)) as opened:
        tasks = [asyncio.create_task(one(opened[n % len(opened)])) for n in range(count)]
        await stop.wait()
        found = count - len(ended), list(ended)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return found


async def roll_over(
    stop: asyncio.Event, address: str, path: str, request: bytes, limit_s: float
) -> tuple[list[Step], Call]:
    """A rollover: its messages, and how it ended."""
    steps = []
    began = time.monotonic()
    async with channels(address, 1) as (channel,):
        method = channel.unary_stream(
            path, response_deserializer=site_pb2.ReembedSiteResponse.FromString
        )
        try:
            async for message in method(request, timeout=limit_s):
                steps.append(Step(time.monotonic(), message.embedded_count, message.total_count))
        except grpc.aio.AioRpcError as error:
            return steps, failed(began, error)
    return steps, Call(began, time.monotonic() - began)
