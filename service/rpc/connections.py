"""The connections below gRPC, which itself cannot end one that does not behave."""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import logging
import os
import socket
import sys
import termios
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote

from service.config import split_address
from service.rpc.calls import Context, when_over

log = logging.getLogger("resight.rpc")

Address: TypeAlias = tuple[str, int]
"""Host and port of a client."""

LOOK_S = 1.0
"""Seconds between two looks at the connections."""

_LOOK_AGAIN_S = 0.01

_CROWDED = 0.9
_ENOUGH = 0.75


def peer_address(peer: str) -> Address:
    """The address of a client as gRPC names it, "ipv4:1.2.3.4:567" or "ipv6:%5B::1%5D:567"."""
    return _plain(*split_address(unquote(peer).partition(":")[2]))


def close_connections(clients: Collection[Address], *, idle: bool = False) -> int:
    """Close the TCP connections to clients, and so end their calls; how many there were.

    idle: only those to which no answer is under way.
    """
    closed = 0
    for connection, client in _connections():
        if client in clients and not (idle and _sends(connection)):
            with suppress(OSError):  # gone meanwhile
                connection.shutdown(socket.SHUT_RDWR)
                closed += 1
    return closed


def close_all(port: int) -> None:
    """Close all TCP connections to a port, whatever their clients do not read."""
    for connection, _ in _connections(port):
        with suppress(OSError):  # gone meanwhile
            connection.shutdown(socket.SHUT_RDWR)


async def delivered(port: int, at_most_s: float) -> None:
    """Wait until the clients' systems have all that was sent from a port, at most some seconds.

    A connection that is closed before loses it, if its client sends anything meanwhile.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(at_most_s):
            while await asyncio.to_thread(_any_sends, port):
                await asyncio.sleep(_LOOK_AGAIN_S)


def _any_sends(port: int) -> bool:
    """Whether a connection sends; yes where no descriptor is free to look with."""
    try:
        return any(_sends(connection) for connection, _ in _connections(port))
    except OSError:
        return True


def _sends(connection: socket.socket) -> bool:
    """Whether there are bytes that the other end has not acknowledged."""
    count = fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(count, sys.byteorder) > 0


class IdleConnections:
    """Closes connections without calls, the longest idle ones first, where too many are open.

    Belongs to one event loop. most: connections that can be open.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._busy: Counter[Address] = Counter()
        self._idle: dict[Address, None] = {}

    def begin(self, context: Context) -> None:
        """A call has begun: its connection is not idle until it is over."""
        client = peer_address(context.peer())

        def ended(_: Context) -> None:
            self._busy[client] -= 1
            if not self._busy[client]:
                del self._busy[client]
                self._idle[client] = None
                if len(self._idle) > 2 * self._most:  # most of them have been closed
                    del self._idle[next(iter(self._idle))]

        self._busy[client] += 1
        self._idle.pop(client, None)
        when_over(context, ended)

    async def watch(self, port: int) -> None:
        """Look after the connections to a port, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look(port)
            except OSError as error:  # no descriptor is free to look with
                log.warning("connections cannot be looked after now: %s", error)

    async def look(self, port: int) -> None:
        """Close idle connections to a port if nearly all that can be open are."""
        if len(os.listdir("/proc/self/fd")) <= _ENOUGH * self._most:  # noqa: PTH208 - only counted
            return
        opened = await asyncio.to_thread(_clients, port)
        self._idle = {client: None for client in self._idle if client in opened}
        self._idle |= {c: None for c in opened if c not in self._busy and c not in self._idle}
        if len(opened) <= _CROWDED * self._most:
            return
        surplus = len(opened) - int(_ENOUGH * self._most)
        longest = set(list(self._idle)[:surplus])
        closed = await asyncio.to_thread(close_connections, longest, idle=True)
        log.warning(
            "%d of %d connections open: closed %d idle ones", len(opened), self._most, closed
        )


def _clients(port: int) -> list[Address]:
    return [client for connection, client in _connections(port)]


def _connections(port: int | None = None) -> Iterator[tuple[socket.socket, Address]]:
    """The TCP connections of this process, and their other ends; port: only those to it."""
    for path in Path("/proc/self/fd").iterdir():
        with _copy(path) as connection:
            if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            try:
                client = _plain(*connection.getpeername()[:2])
                wanted = port in (None, connection.getsockname()[1])
            except OSError:  # not connected, or not any more
                continue
            if wanted:
                yield connection, client


@contextmanager
def _copy(path: Path) -> Iterator[socket.socket | None]:
    """A copy, as the number may soon stand for another one; None if it is not a socket.

    Files are never copied: closing a copy would end all locks that this process has on the file,
    and with those of the database an outside connection may delete its log.
    """
    try:
        if not str(path.readlink()).startswith("socket:"):
            yield None
            return
        copy = os.dup(int(path.name))
    except OSError:  # closed meanwhile
        yield None
        return
    with socket.socket(fileno=copy) as connection:
        yield connection


def _plain(host: str, port: int) -> Address:
    """Equal for an IPv4 address and the same one mapped to IPv6."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address), port
