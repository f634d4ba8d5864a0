"""What all labelled layouts share: the names of their parts and the codes of their cameras."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

Split = Literal["train", "query", "gallery"]


def camera_codes(names: Iterable[str]) -> dict[str, int]:
    """Code of each camera name; c2 comes before c10."""
    return {name: code for code, name in enumerate(sorted(set(names), key=_by_number))}


def _by_number(name: str) -> tuple[object, ...]:
    return tuple(int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name))
