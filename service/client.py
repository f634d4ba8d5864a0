"""A typed client of a resight server, for scripts and for the command line.

    with ResightClient("127.0.0.1:50051") as client:
        client.create_site("lobby")
        for outcome in client.enroll("lobby", sightings):
            ...
        result = client.search("lobby", image, limit=10)

Errors of the client:

ClientError
├── ServerUnreachableError        no server answers at the address
├── BadAnswerError                an answer that does not match the request
└── CallFailedError               the server refused the call
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from models.job_contract import AdaptationRound
from service.config import CLIENT_CHUNK_BYTES, CLIENT_CHUNK_ITEMS
from service.errors import ServiceError
from service.jobs.records import Adaptation, AdaptationSpec
from service.rpc import convert, names
from service.rpc.convert_adaptation import adaptation_from_wire, round_from_wire
from service.rpc.pb.resight.v1 import (
    adaptation_pb2,
    adaptation_pb2_grpc,
    embedding_pb2,
    embedding_pb2_grpc,
    gallery_pb2,
    gallery_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    site_pb2,
    site_pb2_grpc,
)
from service.types import (
    EVERY_SIGHTING,
    CameraSummary,
    Enrolled,
    Match,
    ModelInfo,
    NewSighting,
    RolloverProgress,
    Sighting,
    SightingFilter,
    Site,
    UnknownValues,
    Vector,
)

DEFAULT_SERVER = "127.0.0.1:50051"

T = TypeVar("T")


class ClientError(ServiceError):
    """Base of all errors of the client."""


class ServerUnreachableError(ClientError):
    """No server answers at the address."""


class BadAnswerError(ClientError):
    """An answer that does not match the request."""


class CallFailedError(ClientError):
    """The server refused a call, or an item of it.

    code: canonical gRPC code name. reason: of the ErrorInfo, empty if there is none; the list is in
    docs/service.md. retry_after_s: seconds after which a retry may succeed, None if unknown.
    """

    def __init__(
        self, message: str, code: str, reason: str, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """Matches of one query, best first.

    model: `name@version` that embedded all vectors. unknown: values of the filter that no sighting
    of the site has.
    """

    matches: tuple[Match, ...]
    model: str
    unknown: tuple[UnknownValues, ...] = ()


class ResightClient:
    """One connection to a server, which threads may share.

    server: host:port. timeout_s: of each call, with its retries after QUEUE_FULL. sleep: waits
    between these retries.
    """

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        *,
        timeout_s: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._server = server
        self._timeout_s = timeout_s
        self._sleep = sleep
        options = [
            # The answer to a large search is one message; the server limits it by its settings.
            ("grpc.max_receive_message_length", -1),
            ("grpc.enable_http_proxy", 0),
        ]
        self._channel = grpc.insecure_channel(server, options=options)
        self._sites = site_pb2_grpc.SiteServiceStub(self._channel)
        self._gallery = gallery_pb2_grpc.GalleryServiceStub(self._channel)
        self._embedding = embedding_pb2_grpc.EmbeddingServiceStub(self._channel)
        self._models = model_pb2_grpc.ModelServiceStub(self._channel)
        self._adaptations = adaptation_pb2_grpc.AdaptationServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    # --- sites

    def create_site(self, site: str) -> Site:
        """Make an empty site."""
        request = site_pb2.CreateSiteRequest(site_id=site)
        return convert.site_from_wire(self._call(self._sites.CreateSite, request))

    def site(self, site: str) -> Site:
        """One site."""
        request = site_pb2.GetSiteRequest(name=names.site_name(site))
        return convert.site_from_wire(self._call(self._sites.GetSite, request))

    def sites(self) -> Iterator[Site]:
        """All sites, ordered by id."""
        request = site_pb2.ListSitesRequest()
        while True:
            answer = self._call(self._sites.ListSites, request)
            yield from map(convert.site_from_wire, answer.sites)
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    def delete_site(self, site: str, *, force: bool = False) -> None:
        """Delete a site; one with sightings only with `force`."""
        request = site_pb2.DeleteSiteRequest(name=names.site_name(site), force=force)
        self._call(self._sites.DeleteSite, request)

    def reembed_site(self, site: str, *, drop_unusable: bool = False) -> Iterator[RolloverProgress]:
        """Roll a site over to the server's own model; without a time limit."""
        request = site_pb2.ReembedSiteRequest(
            name=names.site_name(site), drop_unusable=drop_unusable
        )
        return self._roll_over(self._sites.ReembedSite, request)

    def activate_model(
        self, site: str, model: str, *, drop_unusable: bool = False, force: bool = False
    ) -> Iterator[RolloverProgress]:
        """Roll a site over to a model of the server's registry, `name` or `name@version`.

        force: also to one with a rejected, unjudged or damaged verdict.
        """
        request = site_pb2.ActivateModelRequest(
            name=names.site_name(site),
            model=names.model_name(model),
            drop_unusable=drop_unusable,
            force=force,
        )
        return self._roll_over(self._sites.ActivateModel, request)

    def rollback_model(
        self, site: str, *, drop_unusable: bool = False, force: bool = False
    ) -> Iterator[RolloverProgress]:
        """Roll a site over to the model that it used before.

        force: as in `activate_model`.
        """
        request = site_pb2.RollbackModelRequest(
            name=names.site_name(site), drop_unusable=drop_unusable, force=force
        )
        return self._roll_over(self._sites.RollbackModel, request)

    def _roll_over(
        self, method: Callable[[Any], Iterable[site_pb2.ReembedSiteResponse]], request: Any
    ) -> Iterator[RolloverProgress]:
        try:
            yield from map(convert.progress_from_wire, method(request))
        except grpc.RpcError as error:
            raise self._failure(error) from error

    # --- adaptations

    def start_adaptation(self, site: str, spec: AdaptationSpec) -> Adaptation:
        """Start an adaptation of a site."""
        request = adaptation_pb2.StartAdaptationRequest(
            parent=names.site_name(site),
            method=spec.method,
            recipe=spec.recipe,
            overrides=spec.overrides,
            seed=spec.seed,
        )
        return adaptation_from_wire(self._call(self._adaptations.StartAdaptation, request))[0]

    def adaptation(self, site: str, adaptation: str) -> tuple[Adaptation, list[AdaptationRound]]:
        """One adaptation and its rounds so far."""
        request = adaptation_pb2.GetAdaptationRequest(name=names.adaptation_name(site, adaptation))
        rounds: list[AdaptationRound] = []
        while True:
            answer = self._call(self._adaptations.GetAdaptation, request)
            found, more = adaptation_from_wire(answer)
            rounds += more
            if not found.rounds_left:
                return found, rounds
            request.after_round = rounds[-1].number

    def adaptations(self, site: str) -> Iterator[Adaptation]:
        """The adaptations of a site, oldest first."""
        request = adaptation_pb2.ListAdaptationsRequest(parent=names.site_name(site))
        while True:
            answer = self._call(self._adaptations.ListAdaptations, request)
            yield from (adaptation_from_wire(message)[0] for message in answer.adaptations)
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    def cancel_adaptation(self, site: str, adaptation: str) -> Adaptation:
        """Cancel an adaptation; a running one ends some seconds later."""
        request = adaptation_pb2.CancelAdaptationRequest(
            name=names.adaptation_name(site, adaptation)
        )
        return adaptation_from_wire(self._call(self._adaptations.CancelAdaptation, request))[0]

    def watch_adaptation(
        self, site: str, adaptation: str
    ) -> Iterator[tuple[Adaptation, AdaptationRound | None]]:
        """Each finished round (None: the state changed), until the adaptation is over."""
        request = adaptation_pb2.WatchAdaptationRequest(
            name=names.adaptation_name(site, adaptation)
        )
        try:
            for message in self._adaptations.WatchAdaptation(request):
                latest, _ = adaptation_from_wire(message.adaptation)
                yield latest, round_from_wire(message.round) if message.HasField("round") else None
        except grpc.RpcError as error:
            raise self._failure(error) from error

    # --- sightings

    def enroll(
        self, site: str, sightings: Iterable[NewSighting]
    ) -> Iterator[Enrolled | CallFailedError]:
        """Enroll any number of sightings, lazily, some dozens per call.

        Yields:
            The result of each, in order. A yielded result is durable.

        Raises:
            ClientError: a whole call failed; the sightings of earlier results are enrolled.
        """
        for chunk in _chunks(sightings):
            yield from self._enroll_chunk(site, chunk)

    def _enroll_chunk(
        self, site: str, chunk: Sequence[gallery_pb2.EnrollItem]
    ) -> list[Enrolled | CallFailedError]:
        request = gallery_pb2.EnrollSightingsRequest(
            parent=names.site_name(site),
            items=chunk,
            request_id=uuid.uuid4().hex,
        )
        try:
            answer = self._call(self._gallery.EnrollSightings, request)
        except CallFailedError as error:
            # gRPC itself refuses a message above the server's limit, without a reason of ours.
            if len(chunk) == 1 and error.code == "RESOURCE_EXHAUSTED" and not error.reason:
                return [error]
            raise
        return [
            _item_failure(result.error)
            if result.HasField("error")
            else Enrolled(convert.sighting_from_wire(result.sighting), result.replaced)
            for result in _one_for_each(answer.results, chunk)
        ]

    def search(
        self,
        site: str,
        query: bytes | str,
        *,
        limit: int = 10,
        wanted: SightingFilter = EVERY_SIGHTING,
        attributes: bool = True,
    ) -> SearchAnswer:
        """The sightings most similar to an image file, or to the sighting of an id.

        attributes: those of the matches, too. An answer with them may be too large (BAD_LIMIT).
        """
        (answer,) = self.search_many(
            site, [query], limit=limit, wanted=wanted, attributes=attributes
        )
        if isinstance(answer, CallFailedError):
            raise answer
        return answer

    def search_many(
        self,
        site: str,
        queries: Sequence[bytes | str],
        *,
        limit: int = 10,
        wanted: SightingFilter = EVERY_SIGHTING,
        attributes: bool = True,
    ) -> list[SearchAnswer | CallFailedError]:
        """`search` for several queries in one call; a bad query gives an error in its place."""
        request = gallery_pb2.SearchSightingsRequest(
            parent=names.site_name(site),
            queries=[
                gallery_pb2.SearchQuery(image=query)
                if isinstance(query, bytes)
                else gallery_pb2.SearchQuery(sighting=names.sighting_name(site, query))
                for query in queries
            ],
            filter=convert.filter_to_wire(wanted),
            limit=limit,
            view=_view(attributes),
        )
        answer = self._call(self._gallery.SearchSightings, request)
        model = names.parse_model(answer.model)
        unknown = tuple(map(convert.unknown_from_wire, answer.unknown_filter_values))
        return [
            _item_failure(result.error)
            if result.HasField("error")
            else SearchAnswer(
                tuple(
                    Match(convert.sighting_from_wire(match.sighting), match.score)
                    for match in result.matches
                ),
                model,
                unknown,
            )
            for result in _one_for_each(answer.results, queries)
        ]

    def sighting(self, site: str, sighting: str) -> Sighting:
        """One sighting."""
        request = gallery_pb2.GetSightingRequest(name=names.sighting_name(site, sighting))
        return convert.sighting_from_wire(self._call(self._gallery.GetSighting, request))

    def crop(self, site: str, sighting: str) -> bytes | None:
        """The image of a sighting as it was enrolled, None if it was not kept."""
        request = gallery_pb2.GetSightingRequest(
            name=names.sighting_name(site, sighting), view=gallery_pb2.SIGHTING_VIEW_FULL
        )
        return self._call(self._gallery.GetSighting, request).image or None

    def sightings(
        self,
        site: str,
        wanted: SightingFilter = EVERY_SIGHTING,
        *,
        attributes: bool = True,
        on_unknown: Callable[[UnknownValues], None] = lambda _: None,
    ) -> Iterator[Sighting]:
        """The sightings that pass a filter, ordered by id, with or without their attributes.

        on_unknown: is told the values of the filter that no sighting of the site has, a call for
        each of its lists, before the first sighting.
        """
        request = gallery_pb2.ListSightingsRequest(
            parent=names.site_name(site),
            filter=convert.filter_to_wire(wanted),
            view=_view(attributes),
        )
        while True:
            answer = self._call(self._gallery.ListSightings, request)
            for unknown in answer.unknown_filter_values:
                on_unknown(convert.unknown_from_wire(unknown))
            yield from map(convert.sighting_from_wire, answer.sightings)
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    def cameras(self, site: str) -> Iterator[CameraSummary]:
        """What a site has of each camera, ordered by name."""
        request = gallery_pb2.ListCamerasRequest(parent=names.site_name(site))
        while True:
            answer = self._call(self._gallery.ListCameras, request)
            yield from map(convert.camera_from_wire, answer.cameras)
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    def delete_sighting(self, site: str, sighting: str) -> None:
        """Delete one sighting for good."""
        request = gallery_pb2.DeleteSightingRequest(name=names.sighting_name(site, sighting))
        self._call(self._gallery.DeleteSighting, request)

    # --- models

    def embed(self, images: Sequence[bytes]) -> list[Vector | CallFailedError]:
        """(D,) float32 of unit length, or the error, per image file."""
        answer = self._call(self._embedding.Embed, embedding_pb2.EmbedRequest(images=images))
        return [
            _item_failure(result.error) if result.HasField("error") else _vector(result)
            for result in _one_for_each(answer.results, images)
        ]

    def models(self) -> list[ModelInfo]:
        """The models that the server has loaded."""
        answer = self._call(self._models.ListModels, model_pb2.ListModelsRequest())
        return [convert.model_from_wire(model) for model in answer.models]

    # --- helpers

    def _call(self, method: Callable[..., T], request: Any) -> T:
        """Call; retry when a busy server says so, for at most `timeout_s` seconds."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                return method(request, timeout=max(deadline - time.monotonic(), 0.001))
            except grpc.RpcError as error:
                failure = self._failure(error)
                wait = getattr(failure, "retry_after_s", None)
                if wait is None or time.monotonic() + wait > deadline:
                    raise failure from error
                self._sleep(wait)

    def _failure(self, error: grpc.RpcError) -> ClientError:
        call = cast(grpc.Call, error)  # every error of a call is the call, too
        code = call.code().name
        details = call.details() or code
        rich = rpc_status.from_call(call)
        if rich is not None:
            return _item_failure(rich)
        if code == "UNAVAILABLE":
            return ServerUnreachableError(
                f"no resight server answers at {self._server} ({details}); start one with "
                "`resight serve`, or give its address with --server"
            )
        if code == "DEADLINE_EXCEEDED":
            details = f"no answer within {self._timeout_s:g} s"
        if code == "RESOURCE_EXHAUSTED" and "larger than max" in details:
            details = (
                f"the message is too large ({details}); send fewer or smaller images per call, or "
                "raise the server's RESIGHT_MAX_MESSAGE_BYTES"
            )
        return CallFailedError(details, code, "")


def _one_for_each(results: Sequence[T], asked: Sequence[Any]) -> Sequence[T]:
    if len(results) != len(asked):
        raise BadAnswerError(
            f"the server sent {len(results)} of {len(asked)} results; check that client and server "
            "are of the same version, and look at the server's log"
        )
    return results


def _view(attributes: bool) -> gallery_pb2.SightingView.ValueType:
    view = gallery_pb2.SightingView
    return view.SIGHTING_VIEW_BASIC if attributes else view.SIGHTING_VIEW_COMPACT


def _vector(result: embedding_pb2.EmbedResult) -> Vector:
    if not result.vector:
        raise BadAnswerError(
            "the server sent a result without a vector; check that client and server are of the "
            "same version"
        )
    return np.array(result.vector, np.float32)


def _item_failure(status: status_pb2.Status) -> CallFailedError:
    reason, retry_after_s = "", None
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    code = next((c.name for c in grpc.StatusCode if c.value[0] == status.code), "UNKNOWN")
    return CallFailedError(status.message, code, reason, retry_after_s)


def _chunks(sightings: Iterable[NewSighting]) -> Iterator[list[gallery_pb2.EnrollItem]]:
    chunk: list[gallery_pb2.EnrollItem] = []
    size = 0
    for item in map(convert.item_to_wire, sightings):
        bytes_ = item.ByteSize()
        if chunk and (len(chunk) == CLIENT_CHUNK_ITEMS or size + bytes_ > CLIENT_CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += bytes_
    if chunk:
        yield chunk
