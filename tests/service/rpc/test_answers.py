from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from service.errors import BadLimitError, OverloadedError
from service.operations.metrics import Metrics
from service.rpc import answers as module
from service.rpc.answers import Answers, fitting, joined, with_extra
from service.rpc.pb.resight.v1 import gallery_pb2
from tests.support.fake_call import Call


@pytest.fixture
def answers(metrics: Metrics) -> Iterator[Answers]:
    answers = Answers(metrics, max_bytes=100, total=200, threads=1)
    yield answers
    answers.close()


def page(*names: str) -> list[gallery_pb2.ListSightingsResponse]:
    return [
        gallery_pb2.ListSightingsResponse(sightings=[gallery_pb2.Sighting(name=name)])
        for name in names
    ]


SIZE = len(page("abc")[0].SerializeToString())


def test_parts_are_one_message() -> None:
    parts = page("abc", "def")
    whole = gallery_pb2.ListSightingsResponse.FromString(joined(parts, 2 * SIZE, ""))
    assert [sighting.name for sighting in whole.sightings] == ["abc", "def"]


def test_what_is_too_large_is_not_made() -> None:
    parts = iter(page("abc", "def", "ghi", "jkl"))
    with pytest.raises(BadLimitError, match=f"{2 * SIZE} bytes .*; send less"):
        joined(parts, 2 * SIZE, "send less")
    assert len(list(parts)) == 1, "nothing is read after the first one that does not fit"


@pytest.mark.parametrize(("max_bytes", "fit"), [(1, 1), (2 * SIZE, 2), (2 * SIZE + 1, 2)])
def test_a_page_ends_before_it_is_too_large(max_bytes: int, fit: int) -> None:
    parts = iter(page("abc", "def", "ghi", "jkl"))
    assert len(fitting(parts, max_bytes)) == fit
    assert len(list(parts)) == 4 - fit - 1


def test_what_does_not_fit_is_left_out() -> None:
    answer = joined(page("abc"), SIZE, "")
    (extra,) = page("def")
    assert with_extra(answer, extra, 2 * SIZE - 1) == answer
    whole = gallery_pb2.ListSightingsResponse.FromString(with_extra(answer, extra, 2 * SIZE))
    assert [sighting.name for sighting in whole.sightings] == ["abc", "def"]


async def test_answers_together_are_bounded_until_they_are_sent(
    answers: Answers, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TURN_S", 0.01)
    first, second, third = (Call(name) for name in "abc")
    reservation = await answers.reserve(10**9, first)  # type: ignore[arg-type]
    await answers.reserve(100, second)  # type: ignore[arg-type]
    with pytest.raises(OverloadedError):
        await answers.reserve(50, third)  # type: ignore[arg-type]
    assert metrics.rejected.labels("bytes")._value.get() == 1
    assert await answers.make(lambda: bytes(50), reservation) == bytes(50)
    await answers.reserve(50, third)  # type: ignore[arg-type]
    with pytest.raises(OverloadedError):
        await answers.reserve(1, third)  # type: ignore[arg-type]
    first.end()
    await answers.reserve(50, third)  # type: ignore[arg-type]


async def test_answers_are_made_beside_the_loop(answers: Answers) -> None:
    made = await answers.make(lambda: threading.current_thread().name.encode())
    assert made.startswith(b"resight-answer")
