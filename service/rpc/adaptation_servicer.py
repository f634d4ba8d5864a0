"""The RPCs of adaptations."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import aclosing

from models.job_contract import ROUNDS_BYTES, AdaptationRound
from service.errors import BadLimitError
from service.jobs.api import Adaptations
from service.jobs.records import MAX_ADAPTATION_BYTES, Adaptation
from service.rpc.answers import Answers, fitting
from service.rpc.calls import Context, Serialized
from service.rpc.convert_adaptation import adaptation_to_wire, round_to_wire, spec_from_wire
from service.rpc.names import parse_adaptation, parse_site
from service.rpc.paging import decode_token, encode_token, page_size
from service.rpc.pb.resight.v1 import adaptation_pb2, adaptation_pb2_grpc

_ROUNDS_BYTES = 3 * ROUNDS_BYTES
"""Most bytes on the wire of the rounds that are read at a time: a figure of one digit takes more
there than in a line."""


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
        name, after = parse_adaptation(request.name), request.after_round
        if after < 0:
            raise BadLimitError(f"after_round is {after}; give 0 for all rounds, or more")
        reservation = await self._answers.reserve(MAX_ADAPTATION_BYTES + _ROUNDS_BYTES, context)
        found = await self._adaptations.get(*name, after)
        return await self._answers.make(lambda: self._with_rounds(*found), reservation)

    def _with_rounds(self, found: Adaptation, rounds: list[AdaptationRound]) -> bytes:
        one = adaptation_pb2.Adaptation
        parts = itertools.chain(
            [adaptation_to_wire(found, rounds[:1])],
            (one(rounds=[round_to_wire(round_)]) for round_ in rounds[1:]),
        )
        pieces = fitting(parts, self._answers.max_bytes)
        if len(pieces) < len(rounds):
            pieces.append(one(rounds_left=True).SerializeToString())
        return b"".join(pieces)

    async def ListAdaptations(  # noqa: N802
        self, request: adaptation_pb2.ListAdaptationsRequest, context: Context
    ) -> Serialized:
        site = parse_site(request.parent)
        size = page_size(request.page_size)
        call = b"adaptations" + request.parent.encode()
        after = decode_token(call, request.page_token)
        expected = await self._adaptations.page_bytes(site, after=after, limit=size)
        reservation = await self._answers.reserve(expected, context)
        found, left = await self._adaptations.page(
            site, after=after, limit=size, max_bytes=self._answers.max_bytes
        )
        return await self._answers.make(lambda: self._page(found, left, call), reservation)

    def _page(self, found: list[Adaptation], left: bool, call: bytes) -> bytes:
        pages = adaptation_pb2.ListAdaptationsResponse
        parts = (pages(adaptations=[adaptation_to_wire(each)]) for each in found)
        pieces = fitting(parts, self._answers.max_bytes)
        if left or len(pieces) < len(found):
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
