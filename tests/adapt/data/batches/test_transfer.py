"""Batches made ahead: the same ones, their errors, and the end of the thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.data.batches.transfer import ahead_of, one_ahead  # noqa: E402


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("ahead")]


def test_items_and_their_order_stay() -> None:
    assert list(one_ahead(iter(range(5)))) == [0, 1, 2, 3, 4]
    assert list(one_ahead(iter([]))) == []
    assert not threads()


def test_one_item_is_made_while_another_is_in_use_and_no_more() -> None:
    made: list[int] = []
    ready = threading.Event()

    def items() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            if number == 1:
                ready.set()
            yield number

    ahead = one_ahead(items())
    assert next(ahead) == 0
    assert ready.wait(10)
    assert made == [0, 1]
    ahead.close()
    assert not threads()


def test_an_error_comes_in_its_turn() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("the second")

    ahead = one_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="the second"):
        next(ahead)
    assert not threads()


def test_an_item_may_be_none() -> None:
    assert list(one_ahead(iter([None, 1]))) == [None, 1]


@pytest.mark.parametrize(("device", "ahead"), [("cpu", False), ("cuda", True)])
def test_items_are_made_ahead_for_a_gpu_alone(device: str, ahead: bool) -> None:
    makers: list[bool] = []

    def items() -> Iterator[int]:
        for number in range(3):
            makers.append(threading.current_thread() is not threading.main_thread())
            yield number

    assert list(ahead_of(torch.device(device), items())) == [0, 1, 2]
    assert makers == [ahead] * 3
