"""Which tests `make test-fast` leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent

SLOW = (
    "adapt/workflows",
    "benchmarks",
    "e2e",
)
"""Folders and files whose tests train networks or start processes. Below them each test is marked
`slow`; elsewhere a test that takes more than a second has the mark itself."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [name for name in SLOW if not (TESTS / name).exists()]
    if missing:
        raise pytest.UsageError(f"SLOW in {__file__} names {missing}: remove what has gone")
    for item in items:
        if any(item.path.is_relative_to(TESTS / name) for name in SLOW):
            item.add_marker(pytest.mark.slow)
