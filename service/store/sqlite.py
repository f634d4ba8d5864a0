"""SQLite as the database: two engines on one file, one for many readers, one for the writer."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, PoolProxiedConnection, create_engine, event
from sqlalchemy.exc import DBAPIError

from service.errors import StoreUnusableError
from service.store.damage import read_json
from service.store.foreign_log import number_database

LOCK_TIMEOUT_S = 1.0
"""Seconds that a read or a write waits for a lock of another process."""

_LOG_TIMEOUT_S = 0.005
"""Seconds that emptying the log waits for readers of this process, which are short."""


def refuse_lone_log(path: Path) -> None:
    """Raise `StoreUnusableError` where SQLite would delete the log of a database that has gone.

    SQLite takes a file that is absent or empty for a new database, and then removes its log.
    """
    log = path.with_name(f"{path.name}-wal")
    empty = path.exists() and path.stat().st_size == 0
    if log.exists() and log.stat().st_size and (empty or not path.exists()):
        raise StoreUnusableError(
            f"the database {path} is {'an empty file' if empty else 'missing'}, but its "
            f"write-ahead log {log.name} is there; put the database back beside it, or restore "
            "both from a backup. Open neither before: SQLite would remove the log"
        )
    if empty:
        raise StoreUnusableError(
            f"the database {path} is an empty file; restore it from a backup, or remove it if "
            "there never was a site"
        )


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Within this block, an error of the database or its file is a `StoreUnusableError`."""
    try:
        yield
    except DBAPIError as error:
        raise _unusable(path, error.orig) from error
    except (sqlite3.Error, OSError) as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: BaseException | None) -> StoreUnusableError:
    name = getattr(error, "sqlite_errorname", "")
    advice = "restore it from a backup, or choose another data folder"
    if isinstance(error, OSError) or name.startswith(("SQLITE_CANTOPEN", "SQLITE_PERM")):
        advice = (
            f"it, {path.name}-wal and {path.name}-shm have to be files that the user of this "
            "server may read and write, and the disk has to have room for them (`df -i`, too)"
        )
    elif name.startswith("SQLITE_READONLY"):
        advice = (
            f"the user of this server has to be able to write it, {path.name}-wal, "
            f"{path.name}-shm and their folder; check their modes, and how the disk is mounted"
        )
    elif name.startswith("SQLITE_BUSY"):
        advice = "another process holds it: close it there, and start again"
    elif name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        advice = "check that the disk works and has room, and start again"
    return StoreUnusableError(f"{path} cannot be used as a database ({error}); {advice}")


def check_log(writer: Engine) -> None:
    """Number the database, and move its write-ahead log into it; raises `DBAPIError` or
    `sqlite3.Error` where it is too damaged for that, e.g. cut off."""
    try:
        number_database(writer)
        with closing(writer.raw_connection()) as connection:
            connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)")
    except sqlite3.Error as error:
        # With a full disk the server starts: searches work.
        if error.sqlite_errorname.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            raise


def open_sqlite(
    path: Path, *, readers: int = 4, busy_s: float = LOCK_TIMEOUT_S
) -> tuple[Engine, Engine]:
    """(reader, writer) engines. WAL with synchronous=FULL: a commit survives a loss of power.

    readers: connections for reading, of which a further one is waited for. busy_s: how long one
    connection waits for another.
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
    reader = create_engine(url, pool_size=readers, max_overflow=0, **common)
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
    # Deleted bytes are overwritten, but for copies of rows that SQLite has moved to other pages.
    cursor.execute("PRAGMA secure_delete=ON")
    # Else what a large write changes is copied to a file in the system's temporary folder.
    cursor.execute("PRAGMA temp_store=MEMORY")
    cursor.close()


def open_all(reader: Engine, readers: int) -> None:
    """Open the files of all connections, so that none has to when descriptors are short."""
    with ExitStack() as held:
        for _ in range(readers):
            held.enter_context(closing(reader.raw_connection()))


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
    except MemoryError:
        return "memory is short"
    return "another connection reads or writes" if answer[0] else ""


def move_log(reader: Engine) -> int | None:
    """Move as much of the write-ahead log into the database as nobody needs; delays no write.

    Returns:
        The pages that are left; None: another connection is moving them.
    """
    with closing(reader.raw_connection()) as connection:
        busy, pages, moved = (
            connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        )
    return None if busy else pages - moved


def move_log_at_commits(writer: Engine, usual: bool) -> None:
    """Whether a commit may move the write-ahead log, once it has 1000 pages, as usual."""
    with closing(writer.raw_connection()) as connection:
        connection.cursor().execute(f"PRAGMA wal_autocheckpoint={1000 if usual else 0}")


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
