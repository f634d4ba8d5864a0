"""The HTTP port: /metrics for Prometheus, /healthz for checks without gRPC."""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from service.config import join_address, split_address
from service.errors import PortError

log = logging.getLogger("resight.monitor")

_IDLE_S = 5.0
"""Seconds after which an idle connection is closed: it occupies a thread."""

MAX_CONNECTIONS = 32
"""Connections at a time; the oldest makes room for a further one."""

_REST_S = 1.0
"""Seconds between two attempts to accept a connection, where it fails."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128  # with the default, 5, clients wait for seconds beside idle ones

    def __init__(self, *args: Any, **named: Any) -> None:
        self._lock = threading.Lock()
        self._open: dict[socket.socket, None] = {}
        self._accepts = True
        super().__init__(*args, **named)

    def get_request(self) -> Any:
        try:
            accepted = super().get_request()
        except OSError as error:
            # It waits in the queue and would be reported again at once, as long as e.g. no
            # descriptor is free.
            if self._accepts:
                log.warning("%s: no connection can be accepted (%s)", self.server_address, error)
            self._accepts = False
            time.sleep(_REST_S)
            raise
        self._accepts = True
        return accepted

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                oldest = next(iter(self._open))
                del self._open[oldest]
                with suppress(OSError):  # its client is gone
                    oldest.shutdown(socket.SHUT_RDWR)
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if isinstance(error, OSError):
            log.debug("the connection of %s ended: %r", client_address, error)
        else:
            log.error("a request of %s failed", client_address, exc_info=error)


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        log.debug(*args)


class Monitor:
    """Serves from its own thread, so that it answers while the event loop is busy."""

    def __init__(self, server: WSGIServer, address: str) -> None:
        self._server = server
        self.address = address
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True
        )
        self._thread.start()

    @classmethod
    def start(
        cls,
        address: str,
        registry: CollectorRegistry,
        is_serving: Callable[[], bool],
        *,
        idle_s: float = _IDLE_S,
    ) -> Monitor:
        """Listen and serve; a connection without a request is closed after `idle_s` seconds.

        Raises:
            PortError: the address cannot be listened on.
        """
        host, port = split_address(address)
        try:
            server = make_server(
                host,
                port,
                _application(registry, is_serving),
                server_class=_Server6 if ":" in host else _Server,
                handler_class=type("Handler", (_Handler,), {"timeout": idle_s}),
            )
        except OSError as error:
            raise PortError(
                f"cannot listen on {address} ({error.strerror}); choose another --http"
            ) from error
        return cls(server, join_address(host, server.server_port))

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _application(registry: CollectorRegistry, is_serving: Callable[[], bool]) -> Any:
    metrics = make_wsgi_app(registry)

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == "/metrics":
            answer: Iterable[bytes] = metrics(environ, start_response)
            return answer
        if path == "/healthz":
            serving = is_serving()
            status = "200 OK" if serving else "503 Service Unavailable"
            body = b"SERVING\n" if serving else b"NOT_SERVING\n"
        else:
            status, body = "404 Not Found", b"see /metrics and /healthz\n"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [body]

    return application
