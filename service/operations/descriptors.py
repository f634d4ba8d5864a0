"""File descriptors: each connection takes one, and so does each file of the database."""

from __future__ import annotations

import logging
import resource

log = logging.getLogger("resight")

KEPT_FREE = 160
"""Descriptors that are not for gRPC connections: database (up to 68), metrics (32), the rest."""

_MIN_CONNECTIONS = 16


def raise_limit() -> int:
    """Raise this process's limit of open files as far as it may; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            log.warning("the limit of open files stays at %d: %s", soft, error)
            return soft
        log.info("limit of open files raised from %d to %d", soft, hard)
    return hard


def connections_within(limit: int, wanted: int) -> int:
    """How many of the wanted connections a limit of open files allows; warns if fewer."""
    if limit == resource.RLIM_INFINITY:
        return wanted
    possible = max(limit - KEPT_FREE, _MIN_CONNECTIONS)
    if possible < wanted:
        log.warning(
            "at most %d connections instead of %d: this process may open %d files; raise its limit "
            "(ulimit -n, LimitNOFILE=), or lower RESIGHT_MAX_CONNECTIONS",
            possible,
            wanted,
            limit,
        )
    return min(wanted, possible)
