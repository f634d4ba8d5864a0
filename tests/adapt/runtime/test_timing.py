"""Seconds by stage."""

from __future__ import annotations

import time

import pytest

from adapt.runtime.timing import Stages


def test_stages_add_up_and_those_within_count_once(caplog: pytest.LogCaptureFixture) -> None:
    stages = Stages()
    start = time.monotonic()
    with caplog.at_level("INFO", "resight"), stages("outer", "all of it"):
        with stages("inner"):
            time.sleep(0.05)
        with stages("inner"):
            time.sleep(0.05)
            with stages("innermost"):
                time.sleep(0.03)
        time.sleep(0.01)
    whole = time.monotonic() - start
    assert set(stages.seconds) == {"inner", "innermost", "outer"}
    assert stages.seconds["inner"] >= 0.1
    assert stages.seconds["innermost"] >= 0.03
    assert 0.01 <= stages.seconds["outer"] <= whole - 0.13
    assert sum(stages.seconds.values()) == pytest.approx(whole, abs=0.01)
    assert caplog.messages == ["== outer: all of it"]


def test_a_stage_that_fails_is_counted() -> None:
    stages = Stages()
    with pytest.raises(KeyError), stages("broken"):
        raise KeyError
    assert "broken" in stages.seconds
