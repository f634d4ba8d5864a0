from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.embedding.fair_queue import FairQueue


def send(queue: FairQueue[str], client: str, images: int, name: str = "") -> None:
    call = queue.admit(client, images)
    for _ in range(images):
        queue.push(call, name or client)


def take(queue: FairQueue[str], count: int) -> str:
    return "".join(queue.popleft() for _ in range(count))


def test_equal_calls_of_clients_with_one_each_keep_their_order() -> None:
    queue: FairQueue[str] = FairQueue(100)
    for client in "abc":
        send(queue, client, 2)
    assert take(queue, 6) == "aabbcc"


def test_a_client_with_many_calls_waits_for_itself() -> None:
    queue: FairQueue[str] = FairQueue(100)
    for name in "1234":
        send(queue, "busy", 2, name)
    send(queue, "other", 2, "o")
    assert take(queue, 10) == "11oo223344"


def test_a_short_call_goes_before_longer_ones() -> None:
    queue: FairQueue[str] = FairQueue(100)
    send(queue, "a", 8)
    send(queue, "b", 8)
    assert take(queue, 3) == "aaa"
    send(queue, "c", 1)
    assert take(queue, 14) == "caaaaabbbbbbbb"


def test_short_calls_without_end_starve_no_long_one() -> None:
    queue: FairQueue[str] = FairQueue(1000)
    send(queue, "long", 10, "L")
    taken = ""
    for n in range(200):
        send(queue, f"short {n % 3}", 1, "s")
        send(queue, f"short {n % 3}", 1, "s")
        taken += take(queue, 1)
        if "L" in taken:
            break
    assert taken.index("L") <= 10 * 3, "at most ten rounds of three clients"


def test_where_the_queue_is_full_clients_with_few_images_come_in() -> None:
    queue: FairQueue[str] = FairQueue(128)  # few: 2; spare: 16
    busy = queue.admit("busy", 128)
    assert not queue.has_room("busy", 1)
    assert not queue.has_room("other", 3)
    assert queue.has_room("other", 2)
    calls = [queue.admit(f"other {n}", 2) for n in range(8)]
    assert not queue.has_room("one more", 1)
    queue.release(calls.pop())
    assert queue.has_room("one more", 2)
    queue.release(busy)
    queue.admit("one more", 2)
    queue.admit("busy", 125)
    assert queue.has_room("busy", 1), "spare places are none of the queue's"
    queue.admit("busy", 1)
    assert not queue.has_room("busy", 1)


def test_a_call_larger_than_what_is_left_comes_in() -> None:
    """Else calls that are smaller take each place that becomes free, and it never does."""
    queue: FairQueue[str] = FairQueue(128)
    small = queue.admit("small", 127)
    assert queue.has_room("large", 100)
    queue.admit("large", 100)
    assert not queue.has_room("small", 1)
    assert queue.has_room("other", 2), "with few images, beside the places that are exceeded"
    queue.release(small)
    assert queue.has_room("small", 1)


def test_a_client_is_not_charged_for_what_the_model_did_not_get() -> None:
    queue: FairQueue[str] = FairQueue(1000)
    kept = queue.admit("gives up", 8)
    for _ in range(20):
        call = queue.admit("gives up", 8)
        for _ in range(6):  # of 8: the others are being decoded
            queue.push(call, "x")
        assert queue.release(call) == 6
    assert queue.admit("gives up", 8).finish == kept.finish + 8


def test_nothing_is_kept_of_clients_that_hold_nothing() -> None:
    queue: FairQueue[str] = FairQueue(4)
    for n in range(100):
        call = queue.admit(f"client {n}", 1)
        queue.push(call, "x")
        queue.popleft()
        queue.release(call)
    assert queue.held == 0
    assert not queue._held_by
    assert not queue._last


def test_calls_that_are_cancelled_leave_nothing_and_keep_nobody_waiting() -> None:
    queue: FairQueue[str] = FairQueue(1024)
    send(queue, "busy", 900, "B")
    for _ in range(20):
        cancelled = queue.admit("rude", 100)
        for _ in range(100):
            queue.push(cancelled, "r")
        assert queue.release(cancelled) == 100
    assert len(queue) == queue.held == 900
    assert take(queue, 2) == "BB"
    send(queue, "new", 1, "n")
    assert take(queue, 2) == "nB"


def test_of_a_call_that_is_released_only_its_own_items_leave() -> None:
    queue: FairQueue[str] = FairQueue(100)
    calls = {name: queue.admit(name, 3) for name in "abc"}
    for name in "abcabcabc":
        queue.push(calls[name], name)
    assert queue.popleft() == "a"
    assert queue.release(calls["a"]) == 2
    assert queue.release(calls["b"]) == 3
    assert take(queue, 3) == "ccc"
    assert queue.release(calls["c"]) == 0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9)), min_size=1, max_size=40))
def test_all_that_is_pushed_comes_out_once_and_a_busy_client_gets_its_share(
    calls: list[tuple[int, int]],
) -> None:
    """Of two clients that wait all the time, none gets two of the longest calls more."""
    queue: FairQueue[str] = FairQueue(10_000)
    sent: Counter[str] = Counter()
    for client, images in calls:
        send(queue, str(client), images)
        sent[str(client)] += images
    longest = max(images for _, images in calls)
    left = sent.copy()
    got: Counter[str] = Counter()
    while queue:
        served = queue.popleft()
        got[served] += 1
        left[served] -= 1
        waiting = [got[c] for c in sent if left[c]]
        if waiting:
            assert max(waiting) - min(waiting) <= 2 * longest
    assert got == sent


@pytest.mark.parametrize("most", [1, 7, 64])
def test_of_a_small_queue_one_image_counts_as_few(most: int) -> None:
    queue: FairQueue[str] = FairQueue(most)
    queue.admit("busy", most)
    assert queue.has_room("other", 1)
    assert not queue.has_room("other", 2)
