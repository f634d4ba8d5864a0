from __future__ import annotations

import pytest

from service.operations.metrics import Metrics
from service.store.refusals import SAY_AGAIN_S, STORED_AGAIN_S, Refusals
from tests.support.clock import Clock


def writable(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("resight_store_writable")


def test_each_reason_is_one_line_a_minute(
    metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "resight.store")
    clock = Clock()
    refusals = Refusals(metrics, clock=clock)
    assert writable(metrics) == 1
    for _ in range(100):  # a full disk, on which now and then a small write has room
        refusals.refused("full", 2)
        assert writable(metrics) == 0
        refusals.refused("busy", 1)
        refusals.stored()
        assert writable(metrics) == 1
    assert caplog.messages == ["writes refused (2): full", "writes refused (3): busy"]
    clock.now += SAY_AGAIN_S
    refusals.refused("full", 1)
    refusals.stored()
    assert caplog.messages[2:] == ["writes refused (301): full"]
    clock.now += STORED_AGAIN_S
    refusals.stored()
    refusals.stored()
    refusals.refused("full", 1)
    assert caplog.messages[3:] == [
        "writes are stored again; 301 were refused",
        "writes refused (1): full",
    ]
