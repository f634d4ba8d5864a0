from __future__ import annotations

import asyncio
import errno
import fcntl
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from service.rpc import connections
from service.rpc.connections import IdleConnections, close_connections, delivered, peer_address
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


async def test_an_answer_that_is_under_way_is_not_cut_off() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as connection,
    ):
        address, port = client.getsockname(), server.getsockname()[1]
        connection.setblocking(False)
        sent = 0
        with suppress(BlockingIOError):
            while True:
                sent += connection.send(bytes(65536))
        assert close_connections({address}, idle=True) == 0
        waiting = asyncio.create_task(delivered(port, 10))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await delivered(port, 0.01)  # no longer than that
        while sent:
            sent -= len(client.recv(65536))
        await asyncio.wait_for(waiting, 5)
        assert close_connections({address}, idle=True) >= 1
        assert client.recv(1) == b""


async def test_a_server_stops_where_no_descriptor_is_free_to_look_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(_: Path) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", fails)
        await asyncio.wait_for(delivered(1, 0.05), 5)


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w"), socket.socketpair()[0], socket.socket():
        before = len(list(Path("/proc/self/fd").iterdir()))
        assert not close_connections({("192.0.2.1", 1)})
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_locks_of_files_stay(tmp_path: Path) -> None:
    """Closing a copy of a descriptor would end them, and with them those of the database."""
    path = tmp_path / "file"
    take = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with path.open("a") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert not close_connections({("192.0.2.1", 1)})
        done = subprocess.run(
            [sys.executable, "-c", take, str(path)], capture_output=True, text=True, check=False
        )
    assert "BlockingIOError" in done.stderr


async def test_the_watch_goes_on_where_no_descriptor_is_free(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looked = asyncio.Event()
    errors = [OSError(errno.EMFILE, "Too many open files")]

    async def look(port: int) -> None:
        if errors:
            raise errors.pop()
        looked.set()

    monkeypatch.setattr(connections, "LOOK_S", 0)
    idle = IdleConnections(10)
    monkeypatch.setattr(idle, "look", look)
    watching = asyncio.create_task(idle.watch(1))
    async with asyncio.timeout(10):
        await looked.wait()
    watching.cancel()
    assert [m for m in caplog.messages if "Too many open files" in m]


def test_a_connection_without_a_peer_is_none_of_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_: socket.socket) -> None:
        raise OSError(errno.ENOTCONN, "gone")

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with socket.create_connection(address) as one, server.accept()[0]:
            client = ("127.0.0.1", one.getsockname()[1])
            monkeypatch.setattr(socket.socket, "getpeername", gone)
            assert not close_connections({client})


async def test_of_idle_connections_those_whose_call_ended_first_are_closed() -> None:
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        port, calls = server.getsockname()[1], []
        idle = IdleConnections(20)
        clients = []
        for _ in range(19):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            stack.enter_context(server.accept()[0])
            clients.append(client)
            name, number = client.getsockname()
            calls.append(Call(f"ipv4:{name}:{number}"))
            idle.begin(calls[-1])  # type: ignore[arg-type]
        for call in reversed(calls):
            call.end()
        await idle.look(port)
        assert [_is_closed(client) for client in clients] == [False] * 15 + [True] * 4


def test_connections_of_the_past_are_forgotten() -> None:
    idle = IdleConnections(5)
    for port in range(100):
        call = Call(f"ipv4:127.0.0.1:{port}")
        idle.begin(call)  # type: ignore[arg-type]
        call.end()
    assert list(idle._idle) == [("127.0.0.1", port) for port in range(90, 100)]


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

        watched = IdleConnections(40)
        clients = [connect() for _ in range(35)]
        name, number = clients[0].getsockname()
        call = Call(f"ipv4:{name}:{number}")
        watched.begin(call)  # type: ignore[arg-type]
        await watched.look(port)
        assert not caplog.messages, "9 of 10 are not open yet"
        clients += [connect() for _ in range(3)]
        await watched.look(port)
        assert caplog.messages == ["38 of 40 connections open: closed 8 idle ones"]
        assert sum(_is_closed(client) for client in clients) == 8
        assert not _is_closed(clients[0]), "it has a call"
        assert not any(_is_closed(client) for client in clients[35:]), "they came last"
        call.end()
        assert not watched._busy


def _is_closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
