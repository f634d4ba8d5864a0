"""SQLite as the database: two engines on one file, one for many readers, one for the writer."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, PoolProxiedConnection, create_engine, event
from sqlalchemy.exc import DBAPIError

from service.store.damage import read_json

LOCK_TIMEOUT_S = 1.0
"""Seconds that a read or a write waits for a lock of another process."""

_LOG_TIMEOUT_S = 0.005
"""Seconds that emptying the log waits for readers of this process, which are short."""


def open_sqlite(path: Path, *, busy_s: float = LOCK_TIMEOUT_S) -> tuple[Engine, Engine]:
    """(reader, writer) engines. WAL with synchronous=FULL: a commit survives a loss of power.

    busy_s: how long one connection waits for another.
    """
    if not path.exists():  # readable by its owner only; SQLite gives its other files the same mode
        path.touch(mode=0o600)
    url = URL.create("sqlite", database=str(path))  # as text, a "?" would end the path
    # Parameters are crops and labels: they do not belong in messages and logs.
    common: dict[str, Any] = {
        "connect_args": {"timeout": busy_s},
        "hide_parameters": True,
        "json_deserializer": read_json,
    }
    reader = create_engine(url, pool_size=8, max_overflow=24, **common)
    writer = create_engine(url, pool_size=1, max_overflow=0, **common)
    for engine in (reader, writer):
        event.listen(engine, "connect", _configure)
    # The driver would begin only before the first change; a reader needs one view of all tables,
    # the writer its lock from the start.
    event.listen(reader, "begin", _begin("BEGIN"))
    event.listen(writer, "begin", _begin("BEGIN IMMEDIATE"))
    return reader, writer


def _configure(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    # Deleted bytes are overwritten: no crop of a deleted person stays in the file.
    cursor.execute("PRAGMA secure_delete=ON")
    cursor.close()


def _begin(statement: str) -> Any:
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(statement)

    return begin


def empty_log(writer: Engine) -> str:
    """Move the write-ahead log into the database and empty it, so that it keeps nothing deleted.

    It waits some milliseconds at most for other connections.

    Returns:
        The obstacle, "" if it is empty.
    """
    try:
        with closing(writer.raw_connection()) as connection, _patience(connection, _LOG_TIMEOUT_S):
            answer = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except (sqlite3.Error, DBAPIError) as error:
        return str(error)
    return "another connection reads or writes" if answer[0] else ""


@contextmanager
def _patience(connection: PoolProxiedConnection, seconds: float) -> Iterator[None]:
    """Within this block a connection waits this long for locks."""
    cursor = connection.cursor()
    (usual,) = cursor.execute("PRAGMA busy_timeout").fetchone()
    cursor.execute(f"PRAGMA busy_timeout={round(1000 * seconds)}")
    try:
        yield
    finally:
        cursor.execute(f"PRAGMA busy_timeout={usual}")
