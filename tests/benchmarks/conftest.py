"""Runs that cost little."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def quick() -> Iterator[None]:
    """Thin networks, and each run in the process of the test: a fresh one imports for seconds."""
    from benchmarks import backbones
    from benchmarks.methods import runs
    from tests.support.thin_trunks import thin_trunks

    def here(work: Any, *args: Any) -> Any:
        return work(*args)

    with pytest.MonkeyPatch.context() as patch, thin_trunks():
        for module in (runs, backbones):
            patch.setattr(module, "alone", here)
        yield
