"""Thin networks for whole runs; a module whose tests need real ones has a fixture of this name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def trunks() -> Iterator[None]:
    pytest.importorskip("torch", reason="training needs torch")
    from tests.support.thin_trunks import thin_trunks

    with thin_trunks():
        yield
