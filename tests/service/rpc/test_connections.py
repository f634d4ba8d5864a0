from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from service.rpc.connections import IdleConnections, close_connections, peer_address
from tests.support.fake_call import Call


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
            assert close_connections({peer_address(peer.format(one.getsockname()[1]))}) >= 1
            assert one.recv(1) == b""
            assert of_one.recv(1) == b""
            of_other.sendall(b"x")
            assert other.recv(1) == b"x"


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w"), socket.socketpair()[0], socket.socket():
        before = len(list(Path("/proc/self/fd").iterdir()))
        assert not close_connections({("192.0.2.1", 1)})
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_client_that_is_gone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as one, server.accept()[0]:
            peer = f"ipv4:127.0.0.1:{one.getsockname()[1]}"
        assert not close_connections({peer_address(peer)})


async def test_the_longest_idle_connections_make_room(caplog: pytest.LogCaptureFixture) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        port = server.getsockname()[1]

        def connect() -> socket.socket:
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            stack.enter_context(server.accept()[0])
            return client

        connections = IdleConnections(40)
        clients = [connect() for _ in range(35)]
        name, number = clients[0].getsockname()
        call = Call(f"ipv4:{name}:{number}")
        connections.begin(call)  # type: ignore[arg-type]
        await connections.look(port)
        assert not caplog.messages, "9 of 10 are not open yet"
        clients += [connect() for _ in range(3)]
        await connections.look(port)
        assert caplog.messages == ["38 of 40 connections open: closed 8 idle ones"]
        assert sum(_is_closed(client) for client in clients) == 8
        assert not _is_closed(clients[0]), "it has a call"
        assert not any(_is_closed(client) for client in clients[35:]), "they came last"
        call.end()
        assert not connections._busy


def _is_closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
