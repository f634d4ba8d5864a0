from __future__ import annotations

import threading
from collections.abc import Callable

from service.gallery.rwlock import ReadWriteLock


def _in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_readers_share_and_a_writer_is_alone() -> None:
    lock = ReadWriteLock()
    both_inside = threading.Barrier(2, timeout=10)
    inside = {"readers": 0, "writers": 0}
    guard = threading.Lock()
    faults: list[dict[str, int]] = []

    def note(kind: str, change: int) -> None:
        with guard:
            inside[kind] += change
            if inside["writers"] > 1 or (inside["writers"] and inside["readers"]):
                faults.append(dict(inside))

    def first_read() -> None:
        with lock.reading():
            both_inside.wait()

    pair = [_in_thread(first_read) for _ in range(2)]
    for thread in pair:
        thread.join(10)
        assert not thread.is_alive(), "two readers cannot be inside together"

    def read() -> None:
        for _ in range(200):
            with lock.reading():
                note("readers", 1)
                note("readers", -1)

    def write() -> None:
        for _ in range(200):
            with lock.writing():
                note("writers", 1)
                note("writers", -1)

    for thread in [_in_thread(work) for work in (read, write, read, write, read)]:
        thread.join(20)
        assert not thread.is_alive()
    assert faults == []


def test_nobody_enters_while_a_writer_is_inside() -> None:
    lock = ReadWriteLock()
    entered: list[str] = []

    def enter(kind: str) -> None:
        with lock.reading() if kind == "reader" else lock.writing():
            entered.append(kind)

    with lock.writing():
        others = [_in_thread(lambda kind=kind: enter(kind)) for kind in ("reader", "writer")]  # type: ignore[misc]
        for thread in others:
            thread.join(0.2)  # enough to enter where the lock lets it
        assert entered == []
    for thread in others:
        thread.join(10)
    assert sorted(entered) == ["reader", "writer"]


def test_a_waiting_writer_has_priority_over_new_readers() -> None:
    lock = ReadWriteLock()
    order: list[str] = []
    reading, writer_waits = threading.Event(), threading.Event()

    def old_reader() -> None:
        with lock.reading():
            reading.set()
            assert writer_waits.wait(10)

    def writer() -> None:
        with lock.writing():
            order.append("writer")

    def new_reader() -> None:
        with lock.reading():
            order.append("reader")

    first = _in_thread(old_reader)
    assert reading.wait(10)
    second = _in_thread(writer)
    while not lock.writer_is_waiting:
        assert second.is_alive()
    third = _in_thread(new_reader)
    writer_waits.set()
    for thread in (first, second, third):
        thread.join(10)
    assert order == ["writer", "reader"]


def test_an_error_inside_frees_the_lock() -> None:
    lock = ReadWriteLock()
    for enter in (lock.reading, lock.writing):
        try:
            with enter():
                raise KeyError
        except KeyError:
            pass
    with lock.writing():
        pass
