"""The HTTP port: /metrics for Prometheus, /healthz for checks without gRPC."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from service.config import join_address, split_address
from service.errors import PortError

log = logging.getLogger("resight.monitor")

_IDLE_S = 5.0
"""Seconds after which an idle connection is closed: it occupies a thread."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


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
