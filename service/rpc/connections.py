"""The connections below gRPC, which cannot end the call of a client that stops reading."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path
from urllib.parse import unquote

from service.config import split_address


def close_connection(peer: str) -> bool:
    """Close the TCP connection to a client, and so end its calls; False if there is none.

    peer: as gRPC names it, "ipv4:1.2.3.4:567" or "ipv6:%5B::1%5D:567".
    """
    address = split_address(unquote(peer).partition(":")[2])
    for path in Path("/proc/self/fd").iterdir():
        try:
            # A copy: the number may meanwhile stand for another connection.
            with socket.socket(fileno=os.dup(int(path.name))) as connection:
                if _address(connection.getpeername()) == _address(address):
                    connection.shutdown(socket.SHUT_RDWR)
                    return True
        except OSError:  # not a socket, or closed meanwhile
            continue
    return False


def _address(name: object) -> tuple[str, int] | None:
    """Host and port, equal for an IPv4 address and the same one mapped to IPv6."""
    if not isinstance(name, tuple):
        return None
    host = ipaddress.ip_address(name[0].partition("%")[0])
    mapped = getattr(host, "ipv4_mapped", None)
    return str(mapped or host), name[1]
