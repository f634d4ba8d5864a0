"""The RPCs of adaptations."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from service.jobs.api import Adaptations
from service.jobs.records import Adaptation
from service.rpc.answers import Answers, fitting
from service.rpc.calls import Context, Serialized
from service.rpc.convert_adaptation import adaptation_to_wire, round_to_wire, spec_from_wire
from service.rpc.names import parse_adaptation, parse_site
from service.rpc.paging import decode_token, encode_token, page_size
from service.rpc.pb.resight.v1 import adaptation_pb2, adaptation_pb2_grpc

MAX_ADAPTATION_BYTES = 64 * 1024
"""Most bytes of an adaptation on the wire, without its rounds."""


class AdaptationServicer(adaptation_pb2_grpc.AdaptationServiceServicer):
    """AdaptationService."""

    def __init__(self, adaptations: Adaptations, answers: Answers) -> None:
        self._adaptations = adaptations
        self._answers = answers

    async def StartAdaptation(  # noqa: N802
        self, request: adaptation_pb2.StartAdaptationRequest, context: Context
    ) -> adaptation_pb2.Adaptation:
        site = parse_site(request.parent)
        return adaptation_to_wire(await self._adaptations.start(site, spec_from_wire(request)))

    async def GetAdaptation(  # noqa: N802
        self, request: adaptation_pb2.GetAdaptationRequest, context: Context
    ) -> Serialized:
        name = parse_adaptation(request.name)
        reservation = await self._answers.reserve(self._answers.max_bytes, context)
        found = await self._adaptations.get(*name)
        return await self._answers.make(
            lambda: adaptation_to_wire(*found).SerializeToString(), reservation
        )

    async def ListAdaptations(  # noqa: N802
        self, request: adaptation_pb2.ListAdaptationsRequest, context: Context
    ) -> Serialized:
        site = parse_site(request.parent)
        size = page_size(request.page_size)
        call = b"adaptations" + request.parent.encode()
        after = decode_token(call, request.page_token)
        reservation = await self._answers.reserve(size * MAX_ADAPTATION_BYTES, context)
        found = await self._adaptations.page(site, after=after, limit=size + 1)
        return await self._answers.make(lambda: self._page(found, size, call), reservation)

    def _page(self, found: list[Adaptation], size: int, call: bytes) -> bytes:
        pages = adaptation_pb2.ListAdaptationsResponse
        parts = (pages(adaptations=[adaptation_to_wire(each)]) for each in found[:size])
        pieces = fitting(parts, self._answers.max_bytes)
        if len(pieces) < len(found):
            token = encode_token(call, found[len(pieces) - 1].id)
            pieces.append(pages(next_page_token=token).SerializeToString())
        return b"".join(pieces)

    async def CancelAdaptation(  # noqa: N802
        self, request: adaptation_pb2.CancelAdaptationRequest, context: Context
    ) -> adaptation_pb2.Adaptation:
        return adaptation_to_wire(await self._adaptations.cancel(*parse_adaptation(request.name)))

    async def WatchAdaptation(  # noqa: N802
        self, request: adaptation_pb2.WatchAdaptationRequest, context: Context
    ) -> AsyncIterator[adaptation_pb2.WatchAdaptationResponse]:
        steps = self._adaptations.watch(*parse_adaptation(request.name))
        async with aclosing(steps):
            async for adaptation, round_ in steps:
                yield adaptation_pb2.WatchAdaptationResponse(
                    adaptation=adaptation_to_wire(adaptation),
                    round=None if round_ is None else round_to_wire(round_),
                )
