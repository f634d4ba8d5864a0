"""The RPCs of embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from service.embedding.model_pool import LoadedModel
from service.errors import CallError
from service.rpc import convert, names
from service.rpc.answers import MAX_ERROR_BYTES, Answers, joined, too_large
from service.rpc.calls import Context, Serialized, check_items
from service.rpc.pb.resight.v1 import embedding_pb2, embedding_pb2_grpc
from service.types import Vector

_ADVICE = "send fewer images per call"


class EmbeddingServicer(embedding_pb2_grpc.EmbeddingServiceServicer):
    """EmbeddingService. max_items: per call."""

    def __init__(self, model: LoadedModel, answers: Answers, *, max_items: int) -> None:
        self._model = model
        self._answers = answers
        self._max_items = max_items

    async def Embed(  # noqa: N802
        self, request: embedding_pb2.EmbedRequest, context: Context
    ) -> Serialized:
        check_items(len(request.images), self._max_items, "images")
        expected = len(request.images) * (4 * self._model.info.dimension + MAX_ERROR_BYTES)
        if expected > self._answers.max_bytes:
            raise too_large(self._answers.max_bytes, _ADVICE)
        results = await self._model.embed(request.images, context.peer())
        reservation = await self._answers.reserve(expected, context)
        return await self._answers.make(lambda: self._answer(results), reservation)

    def _answer(self, results: Sequence[Vector | CallError]) -> bytes:
        model = names.model_name(self._model.info.reference)
        parts = (embedding_pb2.EmbedResponse(results=[_result(result)]) for result in results)
        named = [embedding_pb2.EmbedResponse(model=model)]
        return joined(chain(parts, named), self._answers.max_bytes, _ADVICE)


def _result(result: Vector | CallError) -> embedding_pb2.EmbedResult:
    if isinstance(result, CallError):
        return embedding_pb2.EmbedResult(error=convert.status(result))
    return embedding_pb2.EmbedResult(vector=result)
