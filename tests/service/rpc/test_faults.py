from __future__ import annotations

import pytest

from service.rpc.faults import SAY_AGAIN_S, Faults
from tests.support.clock import Clock


def raised(message: str) -> Exception:
    try:
        raise RuntimeError(message)
    except RuntimeError as error:
        return error


def test_the_same_fault_has_one_traceback_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    faults = Faults(clock=clock)
    for number in range(100):
        faults.tell("A/Call", raised(f"no thread {number}"))
    faults.tell("A/Other", raised("no thread"))
    faults.tell("A/Call", ValueError("another fault"))
    assert caplog.messages == ["A/Call failed", "A/Other failed", "A/Call failed"]
    assert all(record.exc_info for record in caplog.records)
    clock.now += SAY_AGAIN_S
    faults.tell("A/Call", raised("no thread"))
    assert caplog.messages[3:] == ["A/Call failed (99 more since the last time)"]
