"""Answers of a real server over real gRPC, against numpy."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from numpy.typing import NDArray

from service.client import CallFailedError, ResightClient
from service.rpc.server import SERVICES
from service.types import Enrolled, Match, NewSighting, SightingFilter
from tests.support.tiny_model import crop, embed_files

T0 = datetime(2026, 3, 1, 8, tzinfo=UTC)
COUNT = 40
CAMERAS = ["entrance", "hall", "garage"]


def camera_of(n: int) -> str:
    return CAMERAS[n % 3]


def time_of(n: int) -> datetime:
    return T0 + timedelta(minutes=n)


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    return [crop(n, suffix=(".jpg", ".png")[n % 2]) for n in range(COUNT)]


@pytest.fixture(scope="module")
def vectors(files: list[bytes]) -> NDArray[np.float32]:
    return embed_files(files)


@pytest.fixture(scope="module")
def client(shared_server, files: list[bytes]) -> ResightClient:  # type: ignore[no-untyped-def]
    client: ResightClient = shared_server.client()
    client.create_site("lobby")
    results = list(
        client.enroll(
            "lobby",
            [
                NewSighting(
                    image=data,
                    camera=camera_of(n),
                    id=f"s{n:02d}",
                    time=time_of(n),
                    track=f"walk-{n // 4}" if n % 5 else "",
                    person=f"person-{n // 8}",
                    attributes={"n": str(n)},
                )
                for n, data in enumerate(files)
            ],
        )
    )
    assert all(isinstance(result, Enrolled) for result in results)
    return client


def check(
    matches: Sequence[Match], vectors: NDArray[np.float32], query: int, allowed: list[int]
) -> None:
    scores = vectors.astype(np.float64) @ vectors[query].astype(np.float64)
    best = sorted(allowed, key=lambda n: (-scores[n], n))[: len(matches)]
    assert [match.sighting.id for match in matches] == [f"s{n:02d}" for n in best]
    np.testing.assert_allclose([match.score for match in matches], scores[best], atol=1e-5)
    for match, n in zip(matches, best, strict=True):
        seen = match.sighting
        assert (seen.camera, seen.time, seen.attributes) == (
            camera_of(n),
            time_of(n),
            {"n": str(n)},
        )


@pytest.mark.parametrize(
    ("wanted", "passes"),
    [
        (SightingFilter(), lambda n: True),
        (SightingFilter(cameras=("hall",)), lambda n: n % 3 == 1),
        (SightingFilter(cameras=("hall", "garage")), lambda n: n % 3 != 0),
        (SightingFilter(exclude_cameras=("entrance",)), lambda n: n % 3 != 0),
        (SightingFilter(start=time_of(10), end=time_of(20)), lambda n: 10 <= n < 20),
        (SightingFilter(persons=("person-1",)), lambda n: n // 8 == 1),
        (SightingFilter(exclude_tracks=("walk-0",)), lambda n: n // 4 != 0 or n % 5 == 0),
        (
            SightingFilter(exclude_cameras=("hall",), start=time_of(5), persons=("person-2",)),
            lambda n: n % 3 != 1 and n >= 5 and n // 8 == 2,
        ),
        (SightingFilter(cameras=("nowhere",)), lambda n: False),
    ],
)
@pytest.mark.parametrize("limit", [1, 5, 100])
def test_search_equals_numpy(  # type: ignore[no-untyped-def]
    client: ResightClient,
    files: list[bytes],
    vectors: NDArray[np.float32],
    wanted: SightingFilter,
    passes,
    limit: int,
) -> None:
    allowed = [n for n in range(COUNT) if passes(n)]
    for query in (0, 13):
        answer = client.search("lobby", files[query], limit=limit, wanted=wanted)
        assert answer.model == "tiny@1"
        assert len(answer.matches) == min(limit, len(allowed))
        check(answer.matches, vectors, query, allowed)


def test_embed_equals_numpy(
    client: ResightClient, files: list[bytes], vectors: NDArray[np.float32]
) -> None:
    np.testing.assert_allclose(np.stack(client.embed(files)), vectors, atol=1e-6)  # type: ignore[arg-type]


def test_search_by_sighting_equals_search_by_its_image(
    client: ResightClient, vectors: NDArray[np.float32]
) -> None:
    answer = client.search("lobby", "s07", limit=6)
    check(answer.matches, vectors, 7, [n for n in range(COUNT) if n != 7])


def test_bad_images_of_each_kind_beside_good_ones(shared_server) -> None:  # type: ignore[no-untyped-def]
    jpeg = crop(1, height=200, width=100, suffix=".jpg")
    bad = {
        "IMAGE_EMPTY": b"",
        "IMAGE_UNSUPPORTED": b"%PDF-1.7 not an image",
        "IMAGE_DAMAGED": jpeg[: -len(jpeg) // 3],
        "IMAGE_TOO_SMALL": crop(1, height=1, width=1),
        "IMAGE_TOO_LARGE": crop(1, height=600, width=600, suffix=".jpg"),
    }
    items = [
        NewSighting(image=data, camera="c", id=f"i{n}")
        for n, data in enumerate(data for image in bad.values() for data in (image, crop(7)))
    ]
    with shared_server.client() as client:
        client.create_site("mixed")
        results = list(client.enroll("mixed", items))
        for result in results[::2]:
            assert isinstance(result, CallFailedError)
            assert (result.code, result.reason) == ("INVALID_ARGUMENT", "BAD_IMAGE")
        assert all(isinstance(result, Enrolled) for result in results[1::2])
        assert [sighting.id for sighting in client.sightings("mixed")] == [
            f"i{n}" for n in range(1, len(items), 2)
        ]
    page = shared_server.page("/metrics")
    for problem in bad:
        assert f'resight_bad_images_total{{problem="{problem}"}}' in page


def test_an_unknown_site(shared_server) -> None:  # type: ignore[no-untyped-def]
    with shared_server.client() as client:
        for call in (
            lambda: client.search("nowhere", crop(1)),
            lambda: list(client.enroll("nowhere", [NewSighting(image=crop(1), camera="c")])),
            lambda: client.delete_site("nowhere"),
        ):
            with pytest.raises(CallFailedError, match="resight site create nowhere") as error:
                call()
            assert (error.value.code, error.value.reason) == ("NOT_FOUND", "SITE_NOT_FOUND")


def test_sizes_that_the_server_does_not_take(shared_server) -> None:  # type: ignore[no-untyped-def]
    with shared_server.client() as client:
        with pytest.raises(CallFailedError) as error:
            client.embed([crop(1)] * 65)
        assert error.value.reason == "TOO_MANY_ITEMS"
        with pytest.raises(CallFailedError) as error:
            client.embed([bytes(4_600_000)])
        assert error.value.code == "RESOURCE_EXHAUSTED"
        too_big, good = client.embed([bytes(300_000), crop(1)])
        assert isinstance(too_big, CallFailedError)
        assert "300000 bytes" in str(too_big)
        assert isinstance(good, np.ndarray)
        with pytest.raises(CallFailedError) as error:
            client.embed([])
        assert error.value.reason == "TOO_MANY_ITEMS"


def test_deleting_forgets(shared_server) -> None:  # type: ignore[no-untyped-def]
    secret = crop(99, height=200, width=100)
    with shared_server.client() as client:
        client.create_site("forget")
        items = [
            NewSighting(image=crop(1), camera="c", id="other"),
            NewSighting(image=secret, camera="c", id="ann-1", person="Ann Example"),
        ]
        assert all(isinstance(result, Enrolled) for result in client.enroll("forget", items))
        found = list(client.sightings("forget", SightingFilter(persons=("Ann Example",))))
        assert [sighting.id for sighting in found] == ["ann-1"]
        client.delete_sighting("forget", "ann-1")
        answer = client.search("forget", secret)
        assert [match.sighting.id for match in answer.matches] == ["other"]
        with pytest.raises(CallFailedError):
            client.crop("forget", "ann-1")
    stored = b"".join(path.read_bytes() for path in shared_server.data_dir.iterdir())
    assert b"Ann Example" not in stored
    assert secret[-1000:-100] not in stored


def test_health_and_reflection(shared_server) -> None:  # type: ignore[no-untyped-def]
    with grpc.insecure_channel(shared_server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", *SERVICES):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (listed,) = reflection.ServerReflectionInfo(iter([request]), timeout=10)
        names = {service.name for service in listed.list_services_response.service}
        assert {*SERVICES, "grpc.health.v1.Health"} <= names
        request = reflection_pb2.ServerReflectionRequest(
            file_containing_symbol="resight.v1.GalleryService"
        )
        (described,) = reflection.ServerReflectionInfo(iter([request]), timeout=10)
        assert described.file_descriptor_response.file_descriptor_proto
    assert shared_server.page("/healthz") == "SERVING\n"


def test_the_metrics_page_follows_the_work(shared_server, client: ResightClient) -> None:  # type: ignore[no-untyped-def]
    client.search("lobby", crop(5))
    page = shared_server.page("/metrics")
    for line in (
        'resight_model_info{model="tiny",provider="cpu",version="1"} 1.0',
        "resight_provider_fallback 0.0",
        f'resight_gallery_sightings{{site="lobby"}} {COUNT}.0',
        'resight_rpc_duration_seconds_count{code="OK",method="GalleryService/SearchSightings"}',
        'resight_stage_duration_seconds_count{stage="commit"}',
        'resight_images_total{outcome="embedded"}',
        "resight_queue_depth 0.0",
        'resight_store_bytes{file="db"}',
    ):
        assert line in page, line
