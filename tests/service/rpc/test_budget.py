from __future__ import annotations

import asyncio

import pytest

from service.errors import OverloadedError
from service.rpc.budget import ByteBudget, Reservation

LONG_S = 10.0


async def waiting(budget: ByteBudget, amount: int, client: str) -> asyncio.Task[Reservation]:
    task = asyncio.create_task(budget.reserve(amount, client, at_most_s=LONG_S))
    await asyncio.sleep(0)
    return task


async def settled(*tasks: asyncio.Task[Reservation]) -> list[bool]:
    """Which of them have their bytes, once nothing happens any more."""
    for _ in range(5):
        await asyncio.sleep(0)
    return [task.done() for task in tasks]


async def test_a_call_waits_until_there_are_enough_bytes() -> None:
    budget = ByteBudget(10)
    first = await budget.reserve(5, "a", at_most_s=LONG_S)
    await budget.reserve(4, "b", at_most_s=LONG_S)
    third = await waiting(budget, 3, "c")
    assert await settled(third) == [False]
    first.shrink(3)
    assert await settled(third) == [True]
    assert budget.free == 0
    for reservation in (first, await third):
        reservation.release()
        reservation.release()
    assert budget.free == 6


async def test_a_reservation_does_not_grow() -> None:
    budget = ByteBudget(10)
    held = await budget.reserve(2, "a", at_most_s=LONG_S)
    held.shrink(4)
    assert budget.free == 8


async def test_a_client_holds_at_most_half() -> None:
    budget = ByteBudget(10)
    large = await budget.reserve(100, "a", at_most_s=LONG_S)
    assert budget.free == 5
    again = await waiting(budget, 1, "a")
    other = await waiting(budget, 5, "b")
    assert await settled(again, other) == [False, True]
    large.release()
    assert await settled(again) == [True]


async def test_of_clients_that_hold_nothing_first_comes_who_needed_least() -> None:
    budget = ByteBudget(12)
    for client, needed in (("small", 1), ("large", 5)):
        call = await budget.reserve(6, client, at_most_s=LONG_S)
        call.shrink(needed)
        call.release()
    holding = [await budget.reserve(6, client, at_most_s=LONG_S) for client in "ab"]
    new, large, small = [await waiting(budget, 6, client) for client in ("new", "large", "small")]
    for turn, expected in enumerate(([False, False, True], [False, True, True])):
        holding[turn].release()
        assert await settled(new, large, small) == expected
    (await small).release()
    assert await settled(new) == [True]


async def test_small_calls_without_end_starve_no_large_one() -> None:
    budget = ByteBudget(16 * 16)
    for n in range(40):
        (await budget.reserve(16, f"small {n}", at_most_s=LONG_S)).shrink(0)
    running = [await waiting(budget, 16, f"small {n}") for n in range(40)]
    large = await waiting(budget, 16, "large")
    for turn in range(40):
        await asyncio.sleep(0)
        if large.done():
            break
        reservation = await running.pop(0)
        reservation.shrink(1)
        reservation.release()
        running.append(await waiting(budget, 16, f"small {turn}"))
    assert turn <= 24 + 4, "who came earlier, and those who may overtake"
    for task in (large, *running):
        task.cancel()


async def test_nothing_is_kept_of_a_client_that_reserved_no_bytes() -> None:
    budget = ByteBudget(12)
    (await budget.reserve(0, "a", at_most_s=LONG_S)).release()
    assert budget.free == 12
    assert not budget._held


async def test_of_many_places_the_last_is_for_small_calls() -> None:
    budget = ByteBudget(8 * 16)
    for client, needed in (("small", 1), ("large", 2)):
        (await budget.reserve(16, client, at_most_s=LONG_S)).shrink(needed)
    many = [await waiting(budget, 16, f"client {n}") for n in range(8)]
    assert await settled(*many) == [True] * 6 + [False] * 2, "3 bytes are held already"
    large = await waiting(budget, 16, "large")
    small = await waiting(budget, 16, "small")
    assert await settled(large, small) == [False, True]
    for n, granted in enumerate(([False, False, False], [True, False, False], [True, True, False])):
        (await many[n]).release()
        assert await settled(large, *many[6:]) == granted


async def test_of_few_places_none_is_kept_free() -> None:
    budget = ByteBudget(7 * 16)
    calls = [await waiting(budget, 16, f"client {n}") for n in range(7)]
    assert await settled(*calls) == [True] * 7


async def test_what_clients_needed_is_not_remembered_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.rpc.budget._REMEMBERED", 2)
    budget = ByteBudget(12)
    for client in ("a", "b", "a", "c"):
        (await budget.reserve(1, client, at_most_s=LONG_S)).shrink(1)
    assert list(budget._kept) == ["a", "c"]


async def test_first_comes_who_holds_least_then_who_came_first() -> None:
    budget = ByteBudget(12 * 16)
    held = {
        name: await budget.reserve(16 * n, name, at_most_s=LONG_S)
        for name, n in (("a", 5), ("b", 6))
    }
    many = [await waiting(budget, 25, name) for name in ("x", "a", "a", "a")]
    few = [await waiting(budget, 25, name) for name in ("c", "d")]
    assert await settled(*many, *few) == [False] * 6
    held["b"].shrink(16 * 6 - 9)
    assert await settled(*many, *few) == [True, *[False] * 5]
    held["b"].shrink(16 * 6 - 9 - 25)
    assert await settled(*many, *few) == [True, False, False, False, True, False]
    held["b"].shrink(16 * 6 - 9 - 50)
    assert await settled(*many, *few) == [True, False, False, False, True, True]
    held["a"].shrink(16 * 5 - 25)
    assert await settled(*many, *few) == [True, True, False, False, True, True]


async def test_who_waits_too_long_is_refused_and_leaves_nothing_behind() -> None:
    budget = ByteBudget(10)
    held = [await budget.reserve(5, name, at_most_s=LONG_S) for name in "ab"]
    with pytest.raises(OverloadedError) as error:
        await budget.reserve(1, "c", at_most_s=0.01)
    assert error.value.retry_after_s
    for reservation in held:
        reservation.release()
    assert budget.free == 10


@pytest.mark.parametrize("granted", [False, True])
async def test_who_leaves_while_waiting_leaves_nothing_behind(granted: bool) -> None:
    budget = ByteBudget(10)
    held = [await budget.reserve(5, name, at_most_s=LONG_S) for name in "ab"]
    large = await waiting(budget, 5, "c")
    small = await waiting(budget, 1, "d")
    if granted:
        held[0].release()
    large.cancel()
    if not granted:
        held[0].release()
    with pytest.raises(asyncio.CancelledError):
        await large
    assert await settled(small) == [True]
    assert budget.free == 4


async def test_bytes_are_wanted_by_clients_that_hold_less() -> None:
    budget = ByteBudget(12)
    held = {
        name: await budget.reserve(n, name, at_most_s=LONG_S) for name, n in (("a", 6), ("b", 4))
    }
    assert not held["a"].wanted
    of_a = await waiting(budget, 1, "a")
    assert not any(reservation.wanted for reservation in held.values()), "it waits for its own"
    large = await waiting(budget, 3, "c")
    assert [reservation.wanted for reservation in held.values()] == [True, True]
    more = await waiting(budget, 2, "b")
    large.cancel()
    assert [reservation.wanted for reservation in held.values()] == [True, False]
    held["a"].shrink(4)
    assert await settled(more) == [True]
    of_a.cancel()
