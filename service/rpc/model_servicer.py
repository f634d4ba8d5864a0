"""The RPCs of models."""

from __future__ import annotations

from service.embedding.model_pool import ModelPool
from service.errors import UnknownModelError
from service.rpc import convert, names
from service.rpc.calls import Context
from service.rpc.paging import decode_token, encode_token, page_size
from service.rpc.pb.resight.v1 import model_pb2, model_pb2_grpc


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """ModelService."""

    def __init__(self, models: ModelPool) -> None:
        self._models = models

    async def GetModel(  # noqa: N802
        self, request: model_pb2.GetModelRequest, context: Context
    ) -> model_pb2.Model:
        reference = names.parse_model(request.name)
        loaded = [model.info for model in self._models.all()]
        for model in loaded:
            if model.reference == reference:
                return convert.model_to_wire(model)
        known = ", ".join(model.reference for model in loaded)
        raise UnknownModelError(f"{reference} is not loaded; the loaded models are: {known}")

    async def ListModels(  # noqa: N802
        self, request: model_pb2.ListModelsRequest, context: Context
    ) -> model_pb2.ListModelsResponse:
        size = page_size(request.page_size)
        after = decode_token(b"models", request.page_token)
        models = [m.info for m in self._models.all() if m.info.reference > after]
        more = len(models) > size
        return model_pb2.ListModelsResponse(
            models=[convert.model_to_wire(model) for model in models[:size]],
            next_page_token=encode_token(b"models", models[size - 1].reference) if more else "",
        )
