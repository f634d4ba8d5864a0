"""Whether a write-ahead log belongs to the database that it lies beside.

SQLite does not ask: it replays any log that is whole, and the database is a mixture of two. So each
database has a random number of its own (`user_version`), which stands in its first page, and so in
nearly each log.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from sqlalchemy import Engine

from service.errors import StoreUnusableError

# https://www.sqlite.org/fileformat2.html: the header of a database, of a log, and of its frames.
_START = b"SQLite format 3\0"
_NUMBER = slice(60, 64)
_LOG_HEADER = 32
_LOG_START = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_PAGE_BYTES = slice(8, 12)
_SALTS = slice(16, 24)
_FRAME_HEADER = 24
_PAGE = slice(0, 4)
_FRAME_SALTS = slice(8, 16)


def number_database(writer: Engine) -> None:
    """Give a database its number, where it has none; raises `DBAPIError` or `sqlite3.Error`."""
    with closing(writer.raw_connection()) as connection:
        cursor = connection.cursor()
        (number,) = cursor.execute("PRAGMA user_version").fetchone()
        if not number:
            cursor.execute(f"PRAGMA user_version={1 + secrets.randbelow(2**31 - 1)}")


def refuse_foreign_log(path: Path) -> None:
    """Raise `StoreUnusableError` where the log beside a database is of another one.

    For use before SQLite opens them. A log without the first page is not noticed. Raises OSError.
    """
    log = path.with_name(f"{path.name}-wal")
    if not path.exists() or not log.exists():
        return
    with path.open("rb") as file:
        own = _number(file.read(_NUMBER.stop))
    others = (number for number in _numbers(log) if number)
    if own and next(others, own) != own:
        raise StoreUnusableError(
            f"the write-ahead log {log} is of another database than {path} (their numbers, PRAGMA "
            "user_version, differ); put the log back beside its own database, and that of this "
            "one here. Open neither before: SQLite would mix the two"
        )


def _numbers(log: Path) -> Iterator[int]:
    """The numbers in the first pages that a log has."""
    with log.open("rb") as file:
        header = file.read(_LOG_HEADER)
        if not header.startswith(_LOG_START):  # e.g. zeros after a loss of power: SQLite takes none
            return
        page_bytes = int.from_bytes(header[_PAGE_BYTES], "big")
        while len(frame := file.read(_FRAME_HEADER)) == _FRAME_HEADER:
            if frame[_FRAME_SALTS] != header[_SALTS]:  # left of an earlier log
                return
            if int.from_bytes(frame[_PAGE], "big") == 1:
                yield _number(file.read(page_bytes))
            else:
                file.seek(page_bytes, 1)


def _number(page: bytes) -> int:
    """The number in a first page; 0: it has none, or was not written whole."""
    return int.from_bytes(page[_NUMBER], "big") if page.startswith(_START) else 0
