"""The gRPC server: our services, health and reflection."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from service.config import Settings, join_address, split_address, threads_or_cores
from service.embedding.model_pool import ModelPool
from service.errors import PortError
from service.gallery.gallery import Gallery
from service.gallery.site_models import SiteModels
from service.jobs.api import Adaptations
from service.operations.descriptors import connections_within
from service.operations.metrics import Metrics
from service.rollover.activation import Activator
from service.rpc.adaptation_servicer import AdaptationServicer
from service.rpc.answers import Answers
from service.rpc.arrival import Arrival
from service.rpc.connections import IdleConnections, close_all, delivered
from service.rpc.embedding_servicer import EmbeddingServicer
from service.rpc.freed import FreedMemory
from service.rpc.gallery_servicer import GalleryServicer
from service.rpc.interceptors import CallInterceptor
from service.rpc.model_servicer import ModelServicer
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
from service.rpc.site_servicer import SiteServicer

SERVICES = tuple(
    service.full_name
    for module in (site_pb2, gallery_pb2, embedding_pb2, model_pb2, adaptation_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
)
"""Full names of our services."""

KEEPALIVE_S = 30.0
"""Seconds after which a connection without traffic is asked whether its client is there."""

KEEPALIVE_TIMEOUT_S = 20.0
"""Seconds in which it has to answer, or the connection is closed and its calls are cancelled."""

IDLE_S = 600.0
"""Seconds after which a connection without calls is closed; clients make a new one."""

BACKLOG = 8192
"""Calls of one method that may wait until the event loop takes them, some 8 KB each. gRPC's own
limits end calls by chance from 1000 on, those of other clients too, with CANCELLED."""

_NO_GRACE_LIMIT_S = 24 * 3600.0
"""Grace that is given to gRPC itself. It must not expire: two ends at one time crash gRPC."""

_LAST_ANSWERS_S = 1.0
"""Time for clients to read the last answers and, if they watch health, NOT_SERVING."""


class RpcServer:
    """All services on one address. Not SERVING before `start` and from `stop` on."""

    def __init__(
        self,
        gallery: Gallery,
        pool: ModelPool,
        site_models: SiteModels,
        activator: Activator,
        adaptations: Adaptations,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        freed = FreedMemory()
        most = _connection_limit(settings)
        self._connections = IdleConnections(most)
        arrival = _arrival(settings, metrics, freed, pool.require_room)
        self._calls = CallInterceptor(
            metrics,
            arrival,
            self._connections,
            max_concurrent=settings.max_concurrent_calls,
            max_streams=settings.max_streams,
            max_transfer_s=settings.max_transfer_s,
        )
        self._server = grpc.aio.server(interceptors=[self._calls], options=_options(settings, most))
        self._answers = Answers(
            metrics,
            max_bytes=settings.max_answer_bytes,
            total=settings.answers_bytes,
            threads=threads_or_cores(settings.search_threads),
            freed=freed.add,
        )
        site_pb2_grpc.add_SiteServiceServicer_to_server(
            SiteServicer(gallery, activator, adaptations), self._server
        )
        gallery_pb2_grpc.add_GalleryServiceServicer_to_server(
            GalleryServicer(
                gallery,
                site_models,
                self._answers,
                max_items=settings.max_items,
                max_limit=settings.max_limit,
            ),
            self._server,
        )
        embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(
            EmbeddingServicer(pool.own, self._answers, max_items=settings.max_items),
            self._server,
        )
        model_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(pool), self._server)
        adaptation_pb2_grpc.add_AdaptationServiceServicer_to_server(
            AdaptationServicer(adaptations, self._answers), self._server
        )
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined] # lacks in the stubs
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            [*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server
        )
        self._address = settings.listen
        self._port = 0
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Listen and serve; returns the address with the port in use.

        Raises:
            PortError: the address cannot be listened on.
        """
        host, wanted = split_address(self._address)
        _check_free(host, wanted)
        try:
            port = self._server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise PortError(f"cannot listen on {self._address} ({error})") from error
        await self._server.start()
        self._port = port
        self._watching = asyncio.create_task(self._connections.watch(port))
        for service in ("", *SERVICES):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return join_address(host, port)

    async def stop(self, drain_s: float) -> None:
        """Report NOT_SERVING, refuse new calls, give running ones `drain_s` seconds.

        Only calls of our services are waited for: health watches and reflection streams never end.
        """
        await self._health.enter_graceful_shutdown()
        started = time.monotonic()
        await self._calls.finish(drain_s)
        # gRPC closes a connection once it has passed on its last answer, not once it has arrived.
        rest = drain_s - (time.monotonic() - started)
        await delivered(self._port, max(rest, _LAST_ANSWERS_S))
        refusing = asyncio.create_task(self._server.stop(_NO_GRACE_LIMIT_S))
        await asyncio.wait([refusing], timeout=_LAST_ANSWERS_S)
        if not refusing.done():
            await self._end()
        await refusing
        if self._watching is not None:
            self._watching.cancel()
        self._answers.close()

    async def _end(self) -> None:
        """End all calls, also those whose clients do not read: gRPC would wait for these."""
        ending = asyncio.create_task(self._server.stop(0))  # of two times the shorter one counts
        await asyncio.wait([ending], timeout=_LAST_ANSWERS_S)
        if not ending.done():
            with suppress(OSError):  # no descriptor is free to find them with
                await asyncio.to_thread(close_all, self._port)
        await ending


def _connection_limit(settings: Settings) -> int:
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return connections_within(descriptors, settings.max_connections)


def _arrival(
    settings: Settings, metrics: Metrics, freed: FreedMemory, require_room: Callable[[str], None]
) -> Arrival:
    return Arrival(
        metrics,
        max_message=settings.max_message_bytes,
        with_images=settings.requests_bytes,
        max_transfer_s=settings.max_transfer_s,
        freed=freed.add,
        require_room=require_room,
    )


def _options(settings: Settings, connections: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        # Without this a second server could listen on the same port, unnoticed.
        ("grpc.so_reuseport", 0),
        # With this, gRPC reads up to several MB of each call before they are asked for.
        ("grpc.http2.bdp_probe", 0),
        # A client that is gone without a word is noticed, also while nothing is sent to it.
        ("grpc.keepalive_time_ms", int(KEEPALIVE_S * 1000)),
        ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
        ("grpc.http2.ping_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),  # else a minute
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_connection_idle_ms", int(IDLE_S * 1000)),
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.server.max_pending_requests", BACKLOG),
        ("grpc.server.max_pending_requests_hard_limit", BACKLOG),
        # More of one connection would be refused; its client keeps them waiting instead.
        ("grpc.max_concurrent_streams", settings.max_concurrent_calls + settings.max_streams),
    ]


def _check_free(host: str, port: int) -> None:
    """Try the address first: gRPC does not say why it cannot listen."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            pass
    except OSError as error:
        raise PortError(
            f"cannot listen on {join_address(host, port)} ({error.strerror}); choose another "
            "--listen, or stop the program that uses it"
        ) from error
