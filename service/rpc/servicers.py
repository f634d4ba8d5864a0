"""The RPCs: read the request, ask the room that knows, write the answer. Nothing else."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import grpc.aio
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from service.embedding.model_pool import Loaded, LoadedModels
from service.errors import (
    BadLimitError,
    BadNameError,
    CallError,
    ModelMismatchError,
    ModelNotFoundError,
    ShuttingDownError,
    TooManyItemsError,
)
from service.gallery.gallery import Gallery
from service.rollover.switching import Switching
from service.rpc import convert, names
from service.rpc.paging import decode_token, encode_token, page_size
from service.rpc.pb.resight.v1 import (
    embedding_pb2,
    embedding_pb2_grpc,
    gallery_pb2,
    gallery_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
)
from service.store.records import Request
from service.types import (
    REQUEST_ID,
    Enrolled,
    Match,
    NewSighting,
    SightingFilter,
    Vector,
    check_sighting_id,
)

DEFAULT_LIMIT = 10

MAX_MATCHES = 10_000
"""Most matches asked for by one call, all queries together."""

T = TypeVar("T")

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


def check_items(count: int, most: int, what: str) -> None:
    """Raise `TooManyItemsError` unless 1 <= count <= most."""
    if not 1 <= count <= most:
        raise TooManyItemsError(f"{count} {what} in one call; send 1 to {most}")


class GalleryServicer(gallery_pb2_grpc.GalleryServiceServicer):
    """GalleryService. max_items: per call. max_limit: matches per query."""

    def __init__(
        self, gallery: Gallery, switching: Switching, *, max_items: int, max_limit: int
    ) -> None:
        self._gallery = gallery
        self._switching = switching
        self._max_items = max_items
        self._max_limit = max_limit

    async def EnrollSightings(  # noqa: N802
        self, request: gallery_pb2.EnrollSightingsRequest, context: Context
    ) -> gallery_pb2.EnrollSightingsResponse:
        site = names.parse_site(request.parent)
        check_items(len(request.items), self._max_items, "items")
        retry = _retry_key(request)
        results, model = await self._with_the_model_of(
            site, lambda model: self._enroll(site, request.items, retry, model)
        )
        return gallery_pb2.EnrollSightingsResponse(
            results=[convert.enroll_result(site, result) for result in results],
            model=names.model_name(model.info.reference),
        )

    async def _with_the_model_of(
        self, site: str, work: Callable[[Loaded], Awaitable[T]]
    ) -> tuple[T, Loaded]:
        """What `work` gives with the model that a site uses, and this model.

        A site that moves to another model meanwhile refuses vectors of the one before, and this one
        may be gone: then the work is done again, with the new one.
        """
        while True:
            model = await self._switching.active(site)
            try:
                return await work(model), model
            except (ModelMismatchError, ShuttingDownError):
                if (await self._switching.active(site)).info == model.info:
                    raise

    async def _enroll(
        self,
        site: str,
        items: Sequence[gallery_pb2.EnrollItem],
        retry: Request | None,
        model: Loaded,
    ) -> list[Enrolled | CallError]:
        results = None if retry is None else await self._gallery.repeated(site, retry)
        if results is not None:
            return results
        parsed = [_parse_item(item) for item in items]
        sound = [item for item in parsed if isinstance(item, NewSighting)]
        vectors = iter(await model.embed([new.image for new in sound]) if sound else [])
        embedded: list[tuple[NewSighting, Vector] | CallError] = []
        for item in parsed:
            if isinstance(item, CallError):
                embedded.append(item)
                continue
            vector = next(vectors)
            embedded.append(vector if isinstance(vector, CallError) else (item, vector))
        return await self._gallery.enroll(site, embedded, retry, model=model.info.fingerprint)

    async def SearchSightings(  # noqa: N802
        self, request: gallery_pb2.SearchSightingsRequest, context: Context
    ) -> gallery_pb2.SearchSightingsResponse:
        site = names.parse_site(request.parent)
        check_items(len(request.queries), self._max_items, "queries")
        limit = self._limit(request.limit, len(request.queries))
        wanted = convert.filter_from_wire(request.filter)
        results, model = await self._with_the_model_of(
            site, lambda model: self._search(site, request.queries, limit, wanted, model)
        )
        # In a thread: thousands of matches would keep all other calls waiting.
        converted = await asyncio.to_thread(
            lambda: [convert.search_result(site, result) for result in results]
        )
        return gallery_pb2.SearchSightingsResponse(
            results=converted,
            model=names.model_name(model.info.reference),
        )

    async def _search(
        self,
        site: str,
        asked: Sequence[gallery_pb2.SearchQuery],
        limit: int,
        wanted: SightingFilter,
        model: Loaded,
    ) -> list[Sequence[Match] | CallError]:
        images = [query.image for query in asked if query.WhichOneof("query") == "image"]
        vectors = iter(await model.embed(images) if images else [])
        queries = [
            next(vectors) if query.WhichOneof("query") == "image" else _parse_query(site, query)
            for query in asked
        ]
        found = iter(
            await self._gallery.search(
                site,
                [q for q in queries if not isinstance(q, CallError)],
                limit=limit,
                wanted=wanted,
                model=model.info.fingerprint,
            )
        )
        return [query if isinstance(query, CallError) else next(found) for query in queries]

    async def GetSighting(  # noqa: N802
        self, request: gallery_pb2.GetSightingRequest, context: Context
    ) -> gallery_pb2.Sighting:
        site, sighting = names.parse_sighting(request.name)
        found = convert.sighting_to_wire(site, await self._gallery.sighting(site, sighting))
        if request.view == gallery_pb2.SIGHTING_VIEW_FULL:
            found.image = await self._gallery.crop(site, sighting) or b""
        return found

    async def ListSightings(  # noqa: N802
        self, request: gallery_pb2.ListSightingsRequest, context: Context
    ) -> gallery_pb2.ListSightingsResponse:
        site = names.parse_site(request.parent)
        size = page_size(request.page_size)
        wanted = convert.filter_from_wire(request.filter)
        call = request.parent.encode() + _bytes(request.filter)
        after = decode_token(call, request.page_token)
        found = await self._gallery.list_sightings(site, wanted, after=after, limit=size + 1)
        return gallery_pb2.ListSightingsResponse(
            sightings=[convert.sighting_to_wire(site, sighting) for sighting in found[:size]],
            next_page_token=encode_token(call, found[size - 1].id) if len(found) > size else "",
        )

    async def DeleteSighting(  # noqa: N802
        self, request: gallery_pb2.DeleteSightingRequest, context: Context
    ) -> Empty:
        site, sighting = names.parse_sighting(request.name)
        await self._gallery.delete_sighting(site, sighting)
        return Empty()

    def _limit(self, asked: int, queries: int) -> int:
        if not 0 <= asked <= self._max_limit:
            raise BadLimitError(
                f"limit is {asked}; give 1 to {self._max_limit}, or 0 for {DEFAULT_LIMIT}"
            )
        limit = asked or min(DEFAULT_LIMIT, self._max_limit)
        most = max(MAX_MATCHES, self._max_limit)
        if queries * limit > most:
            raise BadLimitError(
                f"{queries} queries with a limit of {limit} ask for more than {most} matches; "
                "send fewer queries per call, or a lower limit"
            )
        return limit


class EmbeddingServicer(embedding_pb2_grpc.EmbeddingServiceServicer):
    """EmbeddingService. max_items: per call."""

    def __init__(self, model: Loaded, *, max_items: int) -> None:
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


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """ModelService."""

    def __init__(self, models: LoadedModels) -> None:
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
        raise ModelNotFoundError(f"the server has not loaded {reference}, but {known}")

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


def _retry_key(request: gallery_pb2.EnrollSightingsRequest) -> Request | None:
    if not request.request_id:
        return None
    if not REQUEST_ID.fullmatch(request.request_id):
        raise BadNameError(
            f"request_id {request.request_id[:160]!r} is not 1 to 128 of A-Z a-z 0-9 . _ ~ -"
        )
    return Request(request.request_id, hashlib.sha256(_bytes(request)).hexdigest())


def _bytes(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def _parse_item(item: gallery_pb2.EnrollItem) -> NewSighting | CallError:
    try:
        return convert.item_from_wire(item)
    except CallError as error:
        return error


def _parse_query(site: str, query: gallery_pb2.SearchQuery) -> str | CallError:
    try:
        if query.WhichOneof("query") is None:
            raise BadNameError("the query has neither an image nor a sighting; set one")
        of_site, sighting = names.parse_sighting(query.sighting)
        if of_site != site:
            raise BadNameError(f"sighting {query.sighting[:160]!r} is not of site {site}")
        return check_sighting_id(sighting)
    except CallError as error:
        return error
