"""Tiny labelled sets for the tests of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.tiny_sets import write_market

MarketFactory = Callable[..., Path]


@pytest.fixture
def market(tmp_path: Path) -> MarketFactory:
    """Write a Market-1501-style set of noisy one-color people and give its root."""

    def write(name: str = "set", **numbers: int) -> Path:
        return write_market(tmp_path / name, **numbers)

    return write
