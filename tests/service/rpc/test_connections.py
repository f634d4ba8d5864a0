from __future__ import annotations

import socket

import pytest

from service.rpc.connections import close_connection


@pytest.mark.parametrize(
    ("listen", "connect", "peer"),
    [
        ("127.0.0.1", "127.0.0.1", "ipv4:127.0.0.1:{}"),
        ("::1", "::1", "ipv6:%5B::1%5D:{}"),
        ("::", "127.0.0.1", "ipv4:127.0.0.1:{}"),
        ("::", "127.0.0.1", "ipv6:%5B::ffff:127.0.0.1%5D:{}"),
    ],
)
def test_the_connection_to_one_client_is_closed(listen: str, connect: str, peer: str) -> None:
    family = socket.AF_INET6 if ":" in listen else socket.AF_INET
    try:
        server = socket.create_server(
            (listen, 0),
            family=family,
            dualstack_ipv6=listen == "::" and socket.has_dualstack_ipv6(),
        )
    except OSError:
        pytest.skip("this machine has no IPv6")
    with server:
        port = server.getsockname()[1]
        with (
            socket.create_connection((connect, port), timeout=10) as one,
            server.accept()[0] as of_one,
            socket.create_connection((connect, port), timeout=10) as other,
            server.accept()[0] as of_other,
        ):
            assert close_connection(peer.format(one.getsockname()[1]))
            assert one.recv(1) == b""
            assert of_one.recv(1) == b""
            of_other.sendall(b"x")
            assert other.recv(1) == b"x"


def test_a_client_that_is_gone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as one, server.accept()[0]:
            peer = f"ipv4:127.0.0.1:{one.getsockname()[1]}"
        assert not close_connection(peer)
