from __future__ import annotations

from itertools import pairwise

import pytest

from service.embedding.return_times import MAX_RETRY_S, MIN_RETRY_S, ReturnTimes


@pytest.fixture
def times() -> ReturnTimes:
    return ReturnTimes()


def test_the_calls_of_a_client_come_back_one_after_the_other(times: ReturnTimes) -> None:
    waits = [times.wait("a", 0.6, now=5.0, full_s=4.0) for _ in range(3)]
    assert waits == pytest.approx([1.3, 1.6, 1.9])


def test_clients_come_back_as_often_as_their_share_of_the_model_lets_them(
    times: ReturnTimes,
) -> None:
    """All together twice in 0.3 s, however many they are; those who never came back are none."""
    for client in range(20):
        times.wait(str(client), 0.3, now=0.0, full_s=4.0)
    for client in range(10):
        times.wait(str(client), 0.3, now=2.0, full_s=4.0)
    one = [times.wait("0", 0.3, now=2.0, full_s=4.0) for _ in range(4)]
    assert [later - before for before, later in pairwise(one)] == pytest.approx([0.3 * 10 / 2] * 3)


def test_a_client_that_does_not_wait_pushes_away_only_its_own_calls(times: ReturnTimes) -> None:
    for _ in range(1000):
        times.wait("hasty", 0.6, now=0.0, full_s=4.0)
    assert times.wait("b", 0.6, now=0.0, full_s=4.0) == pytest.approx(1.3)


def test_none_waits_for_longer_than_the_most(times: ReturnTimes) -> None:
    assert [times.wait("a", 6.0, now=0.0, full_s=36.0) for _ in range(3)] == [MAX_RETRY_S] * 3
    assert times.wait("b", 0.0, now=0.0, full_s=1000.0) == MAX_RETRY_S
    assert times.wait("a", 0.3, now=20.0, full_s=0.0) == pytest.approx(MIN_RETRY_S + 0.15)


def test_clients_whose_times_are_past_are_forgotten(times: ReturnTimes) -> None:
    for client in range(100):
        times.wait(str(client), 0.3, now=0.0, full_s=4.0)
    assert times.wait("new", 0.3, now=60.0, full_s=4.0) == pytest.approx(1.15)
    assert list(times._clients) == ["new"]
