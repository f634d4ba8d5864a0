from __future__ import annotations

import logging
import resource

import pytest

from service.operations.descriptors import connections_within, raise_limit


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The limits of open files that were set, the first one being that from before."""
    limits = [(256, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.append(new))
    return limits


def test_the_limit_is_raised_once(
    limits: list[tuple[int, int]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert raise_limit() == 4096
    assert raise_limit() == 4096
    assert limits == [(256, 4096), (4096, 4096)]
    assert caplog.messages == ["limit of open files raised from 256 to 4096"]


def test_a_limit_that_cannot_be_raised_stays(
    limits: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert raise_limit() == 256
    assert "stays at 256" in caplog.text


@pytest.mark.parametrize(
    ("limit", "connections"),
    [(resource.RLIM_INFINITY, 1024), (1184, 1024), (1183, 1023), (256, 96), (64, 16)],
)
def test_connections_leave_descriptors_for_the_rest(
    caplog: pytest.LogCaptureFixture, limit: int, connections: int
) -> None:
    assert connections_within(limit, 1024) == connections
    assert bool(caplog.messages) == (connections < 1024)
