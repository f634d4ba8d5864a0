"""The RPCs of galleries."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from typing import TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from models.wording import plural
from service.embedding.model_pool import LoadedModel
from service.errors import (
    BadLimitError,
    BadNameError,
    CallError,
    ModelMismatchError,
)
from service.gallery.gallery import Gallery
from service.gallery.search import SMALLER_SEARCH
from service.gallery.site_models import SiteModels
from service.rpc import convert, names
from service.rpc.answers import (
    MAX_ATTRIBUTES_BYTES,
    MAX_CAMERA_BYTES,
    MAX_ERROR_BYTES,
    MAX_SIGHTING_BYTES,
    MAX_UNKNOWN_BYTES,
    Answers,
    fitting,
    joined,
    with_extra,
)
from service.rpc.budget import Reservation
from service.rpc.calls import Context, Serialized, check_items
from service.rpc.paging import decode_token, encode_token, page_size
from service.rpc.pb.resight.v1 import gallery_pb2, gallery_pb2_grpc
from service.store.records import IdempotencyKey
from service.types import (
    REQUEST_ID,
    Detail,
    Enrolled,
    Match,
    NewSighting,
    Sighting,
    UnknownValues,
    Vector,
    check_sighting_id,
)

DEFAULT_LIMIT = 10

MAX_MATCHES = 10_000
"""Most matches that one call may ask for, all queries together."""

T = TypeVar("T")


class GalleryServicer(gallery_pb2_grpc.GalleryServiceServicer):
    """GalleryService. max_items: per call. max_limit: matches per query."""

    def __init__(
        self,
        gallery: Gallery,
        models: SiteModels,
        answers: Answers,
        *,
        max_items: int,
        max_limit: int,
    ) -> None:
        self._gallery = gallery
        self._models = models
        self._answers = answers
        self._max_items = max_items
        self._max_limit = max_limit

    async def EnrollSightings(  # noqa: N802
        self, request: gallery_pb2.EnrollSightingsRequest, context: Context
    ) -> Serialized:
        site = names.parse_site(request.parent)
        check_items(len(request.items), self._max_items, "items")
        key = await asyncio.to_thread(_idempotency_key, request)
        (results, reserved), model = await self._with_model_of(
            site, lambda model: self._enroll(site, model, request.items, key, context)
        )
        return await self._answers.make(lambda: self._enrolled(site, results, model), reserved)

    def _enrolled(
        self, site: str, results: Sequence[Enrolled | CallError], model: LoadedModel
    ) -> bytes:
        """The answer. It is never refused, as the sightings are stored: attributes are left out."""
        answers = gallery_pb2.EnrollSightingsResponse
        pieces: list[bytes] = []
        size = 0
        for result in results:
            for attributes in (True, False):
                converted = convert.enroll_result(site, result, attributes=attributes)
                piece = answers(results=[converted]).SerializeToString()
                if size + len(piece) <= self._answers.max_bytes:
                    break
            pieces.append(piece)
            size += len(piece)
        model_name = names.model_name(model.info.reference)
        return b"".join([*pieces, answers(model=model_name).SerializeToString()])

    async def _with_model_of(
        self, site: str, work: Callable[[LoadedModel], Awaitable[T]]
    ) -> tuple[T, LoadedModel]:
        """The result of `work` with the model that a site uses, and this model.

        After a rollover the site refuses vectors of the model before: then the work is done again,
        with the new one.
        """
        while True:
            async with self._models.held(site) as model:
                try:
                    return await work(model), model
                except ModelMismatchError:
                    if await self._models.info(site) == model.info:
                        raise

    async def _enroll(
        self,
        site: str,
        model: LoadedModel,
        items: Sequence[gallery_pb2.EnrollItem],
        key: IdempotencyKey | None,
        context: Context,
    ) -> tuple[list[Enrolled | CallError], Reservation]:
        """The results, and bytes for their answer: reserved before sightings are stored or read."""
        reserved: list[Reservation] = []

        async def room() -> int:
            expected = len(items) * _expected_bytes(Detail())
            reserved.append(await self._answers.reserve(expected, context))
            return self._answers.max_bytes

        earlier = None if key is None else await self._gallery.earlier_outcome(site, key, room)
        if earlier is not None:
            return earlier, reserved[0]
        parsed = await asyncio.to_thread(lambda: [_parse_item(item) for item in items])
        sound = [item for item in parsed if isinstance(item, NewSighting)]
        images = [new.image for new in sound]
        vectors = iter(await model.embed(images, context.peer()) if images else [])
        embedded: list[tuple[NewSighting, Vector] | CallError] = []
        for item in parsed:
            if isinstance(item, CallError):
                embedded.append(item)
                continue
            vector = next(vectors)
            embedded.append(vector if isinstance(vector, CallError) else (item, vector))
        expected = sum(_expected_of(item) for item in parsed)
        reservation = await self._answers.reserve(expected, context)
        try:
            stored = await self._gallery.enroll(
                site, model.info.fingerprint, embedded, key, max_bytes=expected
            )
        except BaseException:
            reservation.release()
            raise
        return stored, reservation

    async def SearchSightings(  # noqa: N802
        self, request: gallery_pb2.SearchSightingsRequest, context: Context
    ) -> Serialized:
        site = names.parse_site(request.parent)
        check_items(len(request.queries), self._max_items, "queries")
        limit = self._limit(request.limit, len(request.queries))
        wanted = convert.filter_from_wire(request.filter)
        detail = self._detail(request.view)
        expected = len(request.queries) * (limit * _expected_bytes(detail) + MAX_ERROR_BYTES)
        expected += MAX_UNKNOWN_BYTES

        unknown: list[UnknownValues] = []

        def told(values: Sequence[UnknownValues]) -> None:
            unknown[:] = values

        async def work(
            model: LoadedModel,
        ) -> tuple[list[Sequence[Match] | CallError], Reservation]:
            queries = await _vectors(site, model, request.queries, context.peer())
            reserved = await self._answers.reserve(expected, context)
            try:
                found = await self._gallery.search(
                    site,
                    model.info.fingerprint,
                    [query for query in queries if not isinstance(query, CallError)],
                    limit=limit,
                    wanted=wanted,
                    detail=detail,
                    on_unknown=told,
                )
                return _in_places(queries, found), reserved
            except BaseException:
                reserved.release()
                raise

        (results, reserved), model = await self._with_model_of(site, work)
        return await self._answers.make(
            lambda: self._found(site, results, model, unknown), reserved
        )

    def _found(
        self,
        site: str,
        results: Sequence[Sequence[Match] | CallError],
        model: LoadedModel,
        unknown: Sequence[UnknownValues],
    ) -> bytes:
        answers = gallery_pb2.SearchSightingsResponse
        parts = (answers(results=[convert.search_result(site, result)]) for result in results)
        named = [answers(model=names.model_name(model.info.reference))]
        answer = joined(chain(parts, named), self._answers.max_bytes, SMALLER_SEARCH)
        told = answers(unknown_filter_values=map(convert.unknown_to_wire, unknown))
        return with_extra(answer, told, self._answers.max_bytes)

    def _detail(self, view: int) -> Detail:
        return Detail(
            attributes=view != gallery_pb2.SIGHTING_VIEW_COMPACT,
            max_bytes=self._answers.max_bytes,
        )

    async def GetSighting(  # noqa: N802
        self, request: gallery_pb2.GetSightingRequest, context: Context
    ) -> Serialized:
        site, sighting = names.parse_sighting(request.name)
        attributes = request.view != gallery_pb2.SIGHTING_VIEW_COMPACT
        if request.view != gallery_pb2.SIGHTING_VIEW_FULL:
            found = await self._gallery.sighting(site, sighting)
            return convert.sighting_to_wire(site, found, attributes=attributes)
        reservation = await self._answers.reserve(self._answers.max_bytes, context)
        found = await self._gallery.sighting(site, sighting)
        image = await self._gallery.crop(site, sighting) or b""

        def work() -> bytes:
            converted = convert.sighting_to_wire(site, found)
            converted.image = image
            return converted.SerializeToString()

        return await self._answers.make(work, reservation)

    async def ListSightings(  # noqa: N802
        self, request: gallery_pb2.ListSightingsRequest, context: Context
    ) -> Serialized:
        site = names.parse_site(request.parent)
        size = page_size(request.page_size)
        wanted = convert.filter_from_wire(request.filter)
        call = request.parent.encode() + _bytes(request.filter)
        after = decode_token(call, request.page_token)
        detail = self._detail(request.view)
        expected = size * _expected_bytes(detail) + MAX_UNKNOWN_BYTES
        reservation = await self._answers.reserve(expected, context)
        found = await self._gallery.list_sightings(
            site, wanted, after=after, limit=size + 1, detail=detail
        )
        unknown = [] if after else await self._gallery.unknown_values(site, wanted)

        def page() -> bytes:
            told = gallery_pb2.ListSightingsResponse(
                unknown_filter_values=map(convert.unknown_to_wire, unknown)
            )
            return with_extra(self._page(site, found, size, call), told, self._answers.max_bytes)

        return await self._answers.make(page, reservation)

    def _page(self, site: str, found: list[Sighting], size: int, call: bytes) -> bytes:
        pages = gallery_pb2.ListSightingsResponse
        parts = (pages(sightings=[convert.sighting_to_wire(site, each)]) for each in found[:size])
        pieces = fitting(parts, self._answers.max_bytes)
        if len(pieces) < len(found):
            token = encode_token(call, found[len(pieces) - 1].id)
            pieces.append(pages(next_page_token=token).SerializeToString())
        return b"".join(pieces)

    async def ListCameras(  # noqa: N802
        self, request: gallery_pb2.ListCamerasRequest, context: Context
    ) -> Serialized:
        site = names.parse_site(request.parent)
        size = page_size(request.page_size)
        call = b"cameras of " + request.parent.encode()
        after = decode_token(call, request.page_token)
        reservation = await self._answers.reserve(size * MAX_CAMERA_BYTES, context)
        found = [each for each in await self._gallery.cameras(site) if each.camera > after]

        def page() -> bytes:
            pages = gallery_pb2.ListCamerasResponse
            parts = (pages(cameras=[convert.camera_to_wire(each)]) for each in found[:size])
            pieces = fitting(parts, self._answers.max_bytes)
            if len(pieces) < len(found):
                token = encode_token(call, found[len(pieces) - 1].camera)
                pieces.append(pages(next_page_token=token).SerializeToString())
            return b"".join(pieces)

        return await self._answers.make(page, reservation)

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
                f"{plural(queries, 'query', 'queries')} with a limit of {limit} may give "
                f"more than {most} matches; send fewer queries per call, or a lower limit"
            )
        return limit


def _in_places(
    queries: Sequence[Vector | str | CallError], found: Sequence[Sequence[Match] | CallError]
) -> list[Sequence[Match] | CallError]:
    """What was found for each query; one that is an error has it for an answer."""
    left = iter(found)
    return [query if isinstance(query, CallError) else next(left) for query in queries]


async def _vectors(
    site: str, model: LoadedModel, asked: Sequence[gallery_pb2.SearchQuery], client: str
) -> list[Vector | str | CallError]:
    """The embedding, or the id of a sighting, of each query."""
    images = [query.image for query in asked if query.WhichOneof("query") == "image"]
    vectors = iter(await model.embed(images, client) if images else [])
    return [
        next(vectors) if query.WhichOneof("query") == "image" else _parse_query(site, query)
        for query in asked
    ]


def _expected_bytes(detail: Detail) -> int:
    """Most bytes of one sighting in an answer."""
    return MAX_SIGHTING_BYTES + (MAX_ATTRIBUTES_BYTES if detail.attributes else 0)


def _expected_of(item: NewSighting | CallError) -> int:
    """Most bytes of one item in the answer to its enrollment."""
    if isinstance(item, CallError):
        return MAX_ERROR_BYTES
    texts = item.attributes.items()
    return MAX_SIGHTING_BYTES + sum(16 + 4 * (len(key) + len(value)) for key, value in texts)


def _idempotency_key(request: gallery_pb2.EnrollSightingsRequest) -> IdempotencyKey | None:
    if not request.request_id:
        return None
    if not REQUEST_ID.fullmatch(request.request_id):
        raise BadNameError(
            f"request_id {request.request_id[:160]!r} is not 1 to 128 of A-Z a-z 0-9 . _ ~ -"
        )
    return IdempotencyKey(
        request.request_id,
        hashlib.sha256(_bytes(request)).hexdigest(),
        tuple(item.sighting_id for item in request.items),
    )


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
