"""Seconds by stage."""

from __future__ import annotations

import time

import pytest

from adapt.runtime.timing import Stages
from tests.support.clock import Clock


def test_stages_add_up_and_those_within_count_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    stages = Stages(clock)
    with caplog.at_level("INFO", "resight"), stages("outer", "all of it"):
        with stages("inner"):
            clock.now += 2
        clock.now += 1
        with stages("inner"):
            clock.now += 4
            with stages("innermost"):
                clock.now += 8
        clock.now += 16
    assert stages.seconds == {"inner": 6, "innermost": 8, "outer": 17}
    assert caplog.messages == ["== outer: all of it"]


def test_a_stage_after_another_starts_anew() -> None:
    clock = Clock()
    stages = Stages(clock)
    for seconds in (1, 2):
        with stages("first"), stages("within"):
            clock.now += seconds
    with stages("second"):
        clock.now += 4
    assert stages.seconds == {"first": 0, "within": 3, "second": 4}


def test_by_default_the_seconds_are_those_of_the_wall() -> None:
    stages = Stages()
    before = time.monotonic()
    with stages("asleep"):
        time.sleep(0.05)
    assert 0.05 <= stages.seconds["asleep"] <= time.monotonic() - before


def test_a_stage_that_fails_is_counted() -> None:
    clock = Clock()
    stages = Stages(clock)

    def fail() -> None:
        with stages("broken"):
            clock.now += 3
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert stages.seconds == {"broken": 3}
