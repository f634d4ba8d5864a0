"""The RPCs of embeddings."""

from __future__ import annotations

from service.embedding.model_pool import LoadedModel
from service.errors import CallError
from service.rpc import convert, names
from service.rpc.calls import Context, check_items
from service.rpc.pb.resight.v1 import embedding_pb2, embedding_pb2_grpc


class EmbeddingServicer(embedding_pb2_grpc.EmbeddingServiceServicer):
    """EmbeddingService. max_items: per call."""

    def __init__(self, model: LoadedModel, *, max_items: int) -> None:
        self._model = model
        self._max_items = max_items

    async def Embed(  # noqa: N802
        self, request: embedding_pb2.EmbedRequest, context: Context
    ) -> embedding_pb2.EmbedResponse:
        check_items(len(request.images), self._max_items, "images")
        results = await self._model.embed(request.images)
        return embedding_pb2.EmbedResponse(
            results=[
                embedding_pb2.EmbedResult(error=convert.status(result))
                if isinstance(result, CallError)
                else embedding_pb2.EmbedResult(vector=result)
                for result in results
            ],
            model=names.model_name(self._model.info.reference),
        )
