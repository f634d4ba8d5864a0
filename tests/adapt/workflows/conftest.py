"""Networks that cost little."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def thin() -> Iterator[None]:
    """Thin trunks for all tests of a module, by `pytestmark = pytest.mark.usefixtures("thin")`."""
    from tests.support.thin_trunks import thin_trunks

    with thin_trunks():
        yield
