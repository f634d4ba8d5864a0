"""The client against a server that is told what to answer."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from service.client import BadAnswerError, CallFailedError, ResightClient, ServerUnreachableError
from service.errors import BadImageError, OverloadedError, SiteNotFoundError
from service.rpc import convert
from service.rpc.pb.resight.v1 import (
    embedding_pb2,
    embedding_pb2_grpc,
    gallery_pb2,
    gallery_pb2_grpc,
)
from service.types import Enrolled, NewSighting


class FakeGallery(gallery_pb2_grpc.GalleryServiceServicer):
    """Enrolls everything, after the errors it was given."""

    def __init__(self) -> None:
        self.requests: list[gallery_pb2.EnrollSightingsRequest] = []
        self.errors: list[Any] = []
        self.lost = 0

    def EnrollSightings(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.requests.append(request)
        if self.errors:
            context.abort_with_status(rpc_status.to_status(convert.status(self.errors.pop(0))))
        return gallery_pb2.EnrollSightingsResponse(
            results=[
                gallery_pb2.EnrollResult(error=convert.status(BadImageError("bad")))
                if item.sighting.image == b"bad"
                else gallery_pb2.EnrollResult(
                    sighting=gallery_pb2.Sighting(
                        name=f"sites/a/sightings/{item.sighting_id}", camera=item.sighting.camera
                    )
                )
                for item in request.items[self.lost :]
            ]
        )

    def SearchSightings(self, request: Any, context: Any) -> Any:  # noqa: N802
        return gallery_pb2.SearchSightingsResponse(
            results=[gallery_pb2.SearchResult() for _ in request.queries[self.lost :]],
            model="models/m@1",
        )


class FakeEmbedding(embedding_pb2_grpc.EmbeddingServiceServicer):
    """Gives a vector for each image but empty ones, and nothing for the first `lost`."""

    def __init__(self) -> None:
        self.lost = 0

    def Embed(self, request: Any, context: Any) -> Any:  # noqa: N802
        return embedding_pb2.EmbedResponse(
            results=[
                embedding_pb2.EmbedResult(vector=[1.0] if image else [])
                for image in request.images[self.lost :]
            ]
        )


@pytest.fixture
def gallery() -> FakeGallery:
    return FakeGallery()  # type: ignore[abstract]


@pytest.fixture
def embedding() -> FakeEmbedding:
    return FakeEmbedding()


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def client(
    gallery: FakeGallery, embedding: FakeEmbedding, waits: list[float]
) -> Iterator[ResightClient]:
    # The limit that gRPC has by default: what a plain proxy would let through.
    server = grpc.server(ThreadPoolExecutor(2))
    gallery_pb2_grpc.add_GalleryServiceServicer_to_server(gallery, server)
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(embedding, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with ResightClient(f"127.0.0.1:{port}", timeout_s=10, sleep=waits.append) as client:
        yield client
    server.stop(None).wait()


def make(count: int, size: int = 10) -> list[NewSighting]:
    return [NewSighting(image=bytes(size), camera="c", id=f"s{n}") for n in range(count)]


def test_few_sightings_are_one_call(client: ResightClient, gallery: FakeGallery) -> None:
    results = list(client.enroll("a", make(5)))
    assert [r.sighting.id for r in results if isinstance(r, Enrolled)] == [
        f"s{n}" for n in range(5)
    ]
    (request,) = gallery.requests
    assert request.parent == "sites/a"
    assert request.request_id


def test_many_sightings_are_several_calls_in_order(
    client: ResightClient, gallery: FakeGallery
) -> None:
    results = list(client.enroll("a", make(150)))
    assert [r.sighting.id for r in results if isinstance(r, Enrolled)] == [
        f"s{n}" for n in range(150)
    ]
    assert [len(request.items) for request in gallery.requests] == [64, 64, 22]
    assert len({request.request_id for request in gallery.requests}) == 3


def test_messages_stay_below_the_default_limit_of_grpc(
    client: ResightClient, gallery: FakeGallery
) -> None:
    results = list(client.enroll("a", make(20, size=900_000)))
    assert all(isinstance(result, Enrolled) for result in results)
    assert max(request.ByteSize() for request in gallery.requests) < 4 * 1024 * 1024
    assert len(gallery.requests) == 5


def test_an_image_that_fits_no_message_is_its_own_error(client: ResightClient) -> None:
    huge = NewSighting(image=bytes(5_000_000), camera="c", id="huge")
    results = list(client.enroll("a", [*make(1), huge, *make(1)]))
    assert isinstance(results[0], Enrolled)
    assert isinstance(results[1], CallFailedError)
    assert results[1].code == "RESOURCE_EXHAUSTED"
    assert "RESIGHT_MAX_MESSAGE_BYTES" in str(results[1])
    assert isinstance(results[2], Enrolled)


def test_a_bad_item_is_given_with_its_reason(client: ResightClient) -> None:
    good, bad = client.enroll("a", [*make(1), NewSighting(image=b"bad", camera="c")])
    assert isinstance(good, Enrolled)
    assert isinstance(bad, CallFailedError)
    assert (bad.code, bad.reason, str(bad)) == ("INVALID_ARGUMENT", "BAD_IMAGE", "bad")


def test_fewer_results_than_items_are_an_error(
    client: ResightClient, gallery: FakeGallery, embedding: FakeEmbedding
) -> None:
    gallery.lost = embedding.lost = 1
    calls: tuple[Callable[[], Any], ...] = (
        lambda: list(client.enroll("a", make(3))),
        lambda: client.search_many("a", [b"x", b"y", b"z"]),
        lambda: client.embed([b"x", b"y", b"z"]),
    )
    for call in calls:
        with pytest.raises(BadAnswerError, match="2 of 3 results"):
            call()


def test_a_result_without_a_vector_is_an_error(client: ResightClient) -> None:
    assert len(client.embed([b"x", b"y"])) == 2
    with pytest.raises(BadAnswerError, match="without a vector"):
        client.embed([b"x", b""])


def test_nothing_to_enroll_makes_no_call(client: ResightClient, gallery: FakeGallery) -> None:
    assert list(client.enroll("a", [])) == []
    assert gallery.requests == []


def test_a_busy_server_is_asked_again_when_it_says(
    client: ResightClient, gallery: FakeGallery, waits: list[float]
) -> None:
    gallery.errors = [OverloadedError("busy", retry_after_s=s) for s in (0.25, 0.5)]
    (result,) = client.enroll("a", make(1))
    assert isinstance(result, Enrolled)
    assert waits == [0.25, 0.5]
    assert len({request.request_id for request in gallery.requests}) == 1


def test_a_server_that_is_busy_for_too_long_is_an_error(
    client: ResightClient, gallery: FakeGallery, waits: list[float]
) -> None:
    gallery.errors = [OverloadedError("busy", retry_after_s=60)]
    with pytest.raises(CallFailedError, match="busy") as error:
        list(client.enroll("a", make(1)))
    assert (error.value.reason, error.value.retry_after_s) == ("QUEUE_FULL", 60)
    assert waits == []


def test_other_errors_are_not_asked_again(
    client: ResightClient, gallery: FakeGallery, waits: list[float]
) -> None:
    gallery.errors = [SiteNotFoundError("no site a")]
    with pytest.raises(CallFailedError, match="no site a") as error:
        list(client.enroll("a", make(1)))
    assert (error.value.code, error.value.reason) == ("NOT_FOUND", "SITE_NOT_FOUND")
    assert len(gallery.requests) == 1


def test_what_was_enrolled_before_an_error_is_given(
    client: ResightClient, gallery: FakeGallery
) -> None:
    given = []
    stream = client.enroll("a", make(100))
    for _ in range(64):
        given.append(next(stream))
    gallery.errors = [SiteNotFoundError("gone")]
    with pytest.raises(CallFailedError):
        next(stream)
    assert len(given) == 64


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.create_site("a"),
        lambda client: list(client.sites()),
        lambda client: list(client.reembed_site("a")),
        lambda client: client.search("a", b"x"),
    ],
)
def test_an_unreachable_server_is_named(call: Callable[[ResightClient], Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with (
        ResightClient(f"127.0.0.1:{port}", timeout_s=5) as client,
        pytest.raises(ServerUnreachableError, match=f"127.0.0.1:{port}.*--server"),
    ):
        call(client)


def test_a_server_of_another_kind_is_reported(client: ResightClient) -> None:
    with pytest.raises(CallFailedError) as error:
        client.create_site("a")
    assert error.value.code == "UNIMPLEMENTED"
