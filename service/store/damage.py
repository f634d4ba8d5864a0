"""Stored values that cannot be decoded: an error that names the row, never an empty value."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from service.errors import DamagedRowError
from service.store.times import FIRST_US, LAST_US, from_us


@dataclass(frozen=True, slots=True)
class DamagedJson:
    """The text of a JSON column that is not JSON; the reader of the row refuses it."""

    text: str


def read_json(text: str | bytes) -> Any:
    """The value of a JSON column, `DamagedJson` where the text is not JSON.

    Columns are decoded before the row is known, so the damage is returned, and refused by the
    reader of the row, who can name it.
    """
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return DamagedJson(str(text))


def damaged_row(row: str, problem: str) -> DamagedRowError:
    """The error for a row that cannot be decoded."""
    return DamagedRowError(
        f"the database is damaged: {row} {problem}; restore the database from a backup"
    )


def refuse_non_text(value: Any, row: str, columns: Iterable[str]) -> None:
    """Raise `DamagedRowError` unless these columns of a row are text: SQLite stores any type."""
    for column in columns:
        if not isinstance(getattr(value, column), str):
            raise damaged_row(row, f"has a value of {column} that is not text")


def is_time(microseconds: object) -> bool:
    """Whether a stored time can be read."""
    return isinstance(microseconds, int) and FIRST_US <= microseconds <= LAST_US


def stored_time(microseconds: Any, row: str) -> datetime:
    """A stored time; raises `DamagedRowError`."""
    if is_time(microseconds):
        return from_us(microseconds)
    raise damaged_row(row, f"has {microseconds!r} as a time")


def stored_bytes(value: object, row: str, column: str) -> bytes:
    """A stored blob; raises `DamagedRowError`."""
    if isinstance(value, bytes):
        return value
    raise damaged_row(row, f"has {column} that is not a blob")


def text_map(value: object, row: str, column: str) -> Mapping[str, str]:
    """A JSON object of texts; raises `DamagedRowError`."""
    if isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
        return value
    raise damaged_row(row, f"has {column} that are not a JSON object of texts")


def json_list(value: object, row: str, column: str) -> list[Any]:
    """A JSON array; raises `DamagedRowError`."""
    if isinstance(value, list):
        return value
    raise damaged_row(row, f"has {column} that are not a JSON array")
