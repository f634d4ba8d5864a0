"""Stored values that cannot be decoded: an error that names the row, never an empty value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.errors import DamagedRowError


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
