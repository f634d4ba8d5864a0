from __future__ import annotations

import signal

import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.runtime.context import stopped_by_sigterm


def test_sigterm_within_the_block_asks_the_run_to_stop() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopped_by_sigterm() as request:
        assert not request.made
        signal.raise_signal(signal.SIGTERM)
        assert request.made
    assert signal.getsignal(signal.SIGTERM) == before
