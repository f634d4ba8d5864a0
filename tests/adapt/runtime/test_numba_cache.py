"""Compiled functions, with and without a place for what was compiled."""

from __future__ import annotations

from adapt.runtime.numba_cache import compiled


def add(a: int, b: int) -> int:
    return a + b


def test_compiled_and_kept() -> None:
    quick = compiled(add)
    assert quick(2, 3) == 5
    assert quick.stats.cache_path  # type: ignore[attr-defined]


def test_compiled_without_a_place_to_keep_it() -> None:
    """numba finds no file of such a function, and so no place for its cache."""
    place: dict[str, object] = {}
    exec("def add(a, b):\n    return a + b", place)  # noqa: S102
    assert compiled(place["add"])(2, 3) == 5  # type: ignore[arg-type]
