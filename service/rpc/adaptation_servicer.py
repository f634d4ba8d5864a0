"""The RPCs of adaptations."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from service.jobs.api import Adaptations
from service.rpc.calls import Context
from service.rpc.convert_adaptation import adaptation_to_wire, round_to_wire, spec_from_wire
from service.rpc.names import parse_adaptation, parse_site
from service.rpc.paging import decode_token, encode_token, page_size
from service.rpc.pb.resight.v1 import adaptation_pb2, adaptation_pb2_grpc


class AdaptationServicer(adaptation_pb2_grpc.AdaptationServiceServicer):
    """AdaptationService."""

    def __init__(self, adaptations: Adaptations) -> None:
        self._adaptations = adaptations

    async def StartAdaptation(  # noqa: N802
        self, request: adaptation_pb2.StartAdaptationRequest, context: Context
    ) -> adaptation_pb2.Adaptation:
        site = parse_site(request.parent)
        return adaptation_to_wire(await self._adaptations.start(site, spec_from_wire(request)))

    async def GetAdaptation(  # noqa: N802
        self, request: adaptation_pb2.GetAdaptationRequest, context: Context
    ) -> adaptation_pb2.Adaptation:
        return adaptation_to_wire(*await self._adaptations.get(*parse_adaptation(request.name)))

    async def ListAdaptations(  # noqa: N802
        self, request: adaptation_pb2.ListAdaptationsRequest, context: Context
    ) -> adaptation_pb2.ListAdaptationsResponse:
        site = parse_site(request.parent)
        size = page_size(request.page_size)
        call = b"adaptations" + request.parent.encode()
        after = decode_token(call, request.page_token)
        found = await self._adaptations.page(site, after=after, limit=size + 1)
        return adaptation_pb2.ListAdaptationsResponse(
            adaptations=[adaptation_to_wire(adaptation) for adaptation in found[:size]],
            next_page_token=encode_token(call, found[size - 1].id) if len(found) > size else "",
        )

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
