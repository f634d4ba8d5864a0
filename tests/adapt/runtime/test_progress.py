from __future__ import annotations

import io
import logging

import pytest

from adapt.runtime.progress import progress
from tests.support.clock import Clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_off_a_terminal_a_line_is_logged_every_ten_seconds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock(100.0)
    with (
        caplog.at_level("INFO", "resight"),
        progress("embedding", 50, clock=clock) as report,
    ):
        for clock.now, done in ((109.0, 10), (110.0, 20), (119.5, 30), (120.5, 40), (129.0, 50)):
            report(done)
    assert caplog.messages == ["embedding: 20 of 50", "embedding: 40 of 50"]


def test_on_a_terminal_there_is_a_bar(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with caplog.at_level("INFO", "resight"), progress("embedding", 50) as report:
        report(20)
        report(50)
    assert "embedding" in terminal.getvalue()
    assert caplog.messages == []


def test_nothing_is_shown_where_the_log_is_silent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with caplog.at_level(logging.ERROR, "resight"), progress("embedding", 50) as report:
        report(50)
    assert terminal.getvalue() == ""
