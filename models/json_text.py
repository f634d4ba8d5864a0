"""JSON that every reader takes: RFC 8259 has no number that is not finite. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping


def json_text(value: object, indent: int | None = None) -> str:
    """A value as JSON in ASCII; numbers that are not finite are null. indent: as of `json.dumps`.

    Raises TypeError where `json.dumps` does.
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value
