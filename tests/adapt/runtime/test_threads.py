from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from adapt.runtime.threads import in_threads


@pytest.mark.parametrize("count", [0, 1, 500])
def test_results_come_in_the_order_of_the_items(count: int) -> None:
    assert list(in_threads(lambda item: item * item, range(count))) == [n * n for n in range(count)]


def test_work_is_done_in_other_threads() -> None:
    workers = set(in_threads(lambda _: threading.get_ident(), range(50)))
    assert threading.get_ident() not in workers


def test_few_results_wait() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(10_000):
            taken += 1
            yield item

    results = in_threads(lambda item: item, items())
    assert next(results) == 0
    assert taken <= 2 * len(os.sched_getaffinity(0)) + 1


def test_the_error_of_an_item_comes_in_its_place() -> None:
    results = in_threads(lambda item: 1 // item, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
