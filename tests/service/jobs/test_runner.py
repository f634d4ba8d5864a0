"""When a process that ended early is started again. Whole jobs are in test_supervisor.py."""

from __future__ import annotations

import pytest

from service.jobs.runner import JobSetup, Restarts


def delays(delays_s: tuple[float, ...], before: int, rounds: list[int]) -> list[float | None]:
    restarts = Restarts(delays_s, before)
    return [restarts.delay_after(finished) for finished in rounds]


def test_the_delay_grows_until_the_runner_gives_up() -> None:
    assert delays((10.0, 60.0), 0, [0, 0, 0]) == [10.0, 60.0, None]


def test_a_finished_round_starts_the_row_anew() -> None:
    assert delays((10.0, 60.0), 0, [0, 0, 1, 1, 1, 1]) == [10.0, 60.0, 10.0, 10.0, 60.0, None]


def test_rounds_from_before_a_restart_of_the_server_are_no_progress() -> None:
    assert delays((10.0,), 3, [3, 3]) == [10.0, None]
    assert delays((10.0,), 3, [4]) == [10.0]


def test_rounds_that_got_lost_and_are_made_up_are_no_progress() -> None:
    assert delays((10.0, 60.0), 3, [2, 3, 3]) == [10.0, 60.0, None]


def test_it_counts_the_processes_that_finished_no_round() -> None:
    restarts = Restarts((10.0, 60.0), 0)
    counts = []
    for finished in (0, 0, 1, 1):
        restarts.delay_after(finished)
        counts.append(restarts.in_row)
    assert counts == [1, 2, 0, 1]


def test_a_setup_without_delays_is_refused() -> None:
    with pytest.raises(ValueError, match="restart_delays_s is empty; give at least one"):
        JobSetup((), (), "cpu", 0.0, 1.0, "own@1", restart_delays_s=())
