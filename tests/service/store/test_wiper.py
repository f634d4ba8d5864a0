from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

import service.store.wiper
from service.errors import ShuttingDownError, StoreFullError
from service.store.wiper import Wiper
from service.store.wiping import Wiped
from tests.support.waiting import eventually


class Chunks:
    """A writer that answers each chunk with the next of a script."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *script: Wiped | Exception) -> None:
        self.script = list(script)
        self.asked = 0
        monkeypatch.setattr(service.store.wiper, "FIRST_PAUSE_S", 0.001)
        monkeypatch.setattr(service.store.wiper, "LONGEST_PAUSE_S", 0.002)

    def submit(self, _: Callable[..., Any], then: Callable[[Wiped], None]) -> Future[Wiped]:
        self.asked += 1
        answer = self.script.pop(0)
        if isinstance(answer, ShuttingDownError):
            raise answer
        done: Future[Wiped] = Future()
        if isinstance(answer, Exception):
            done.set_exception(answer)
        else:
            then(answer)
            done.set_result(answer)
        return done


SOME, OVER = Wiped(over=False), Wiped(over=True)


def test_it_goes_on_until_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = Chunks(monkeypatch, SOME, SOME, OVER, SOME, OVER, OVER)
    told: list[int] = []
    wiper = Wiper(chunks.submit, lambda: told.append(chunks.asked))
    assert not wiper.pending
    for asked in (3, 5, 6):
        wiper.notify()
        eventually(lambda asked=asked: chunks.asked == asked and not wiper.pending)  # type: ignore[misc]
    wiper.close()
    assert told == [3, 5], "nothing was wiped at last, so the log holds nothing"
    assert wiper.pending_s == 0


def test_a_refusal_is_told_once_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full = [StoreFullError("the server's disk is full") for _ in range(5)]
    chunks = Chunks(monkeypatch, SOME, *full, SOME, OVER)
    wiper = Wiper(chunks.submit, lambda: None)
    wiper.notify()
    eventually(lambda: chunks.asked == 8 and not wiper.pending)
    wiper.close()
    (record,) = caplog.records
    assert "still in the database (the server's disk is full)" in record.getMessage()


def test_it_ends_with_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.store.wiper, "FIRST_PAUSE_S", 3600.0)
    refused = Chunks(monkeypatch, SOME, ShuttingDownError("the server is stopping"))
    wiper = Wiper(refused.submit, lambda: None)
    wiper.notify()
    eventually(lambda: refused.asked == 2)
    wiper.close()
    assert wiper.pending

    waiting = Chunks(monkeypatch, StoreFullError("the server's disk is full"))
    monkeypatch.setattr(service.store.wiper, "FIRST_PAUSE_S", 3600.0)
    wiper = Wiper(waiting.submit, lambda: None)
    wiper.notify()
    eventually(lambda: waiting.asked == 1)
    wiper.close()  # in the middle of the long pause
