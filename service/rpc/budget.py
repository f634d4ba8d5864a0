"""Bytes that calls hold, bounded for all of them together."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from service.errors import OverloadedError

RETRY_S = 0.5

_REMEMBERED = 4096

_SHARES = 16
"""Of all bytes: less than one of them counts as nothing where clients are compared."""

_OVERTAKEN = 3
"""Turns in a row in which the call that came first may be overtaken for what its client kept."""

_PLACE = 1 / 8
"""Of all bytes, what a call reserves at most where there are many places."""

_SMALL = 1 / 16
"""Of what a call reserves, what a small one needs."""


class ByteBudget:
    """A number of bytes that calls hold at most, all together. Belongs to one event loop.

    A call that finds too few waits for its turn. First comes the client that holds the least: one
    with many calls does not keep the others waiting. Then the one whose last call kept least, as it
    frees what it reserves soonest; then the call that came first. For what others kept, the first
    is overtaken a few times in a row at most: however many small calls there are, none starves. One
    client holds at most half. Of many places, the last is for clients whose last call was small, so
    that these hardly wait.

    freed: is told the bytes of each call that is over.
    """

    def __init__(self, total: int, freed: Callable[[int], None] = lambda _: None) -> None:
        self._total = total
        self.freed = freed
        self._free = total
        self._held: Counter[str] = Counter()
        self._kept: dict[str, int] = {}
        self._waiting: list[_Waiter] = []
        self._overtaken = 0

    @property
    def free(self) -> int:
        """Bytes that no call holds."""
        return self._free

    async def reserve(self, amount: int, client: str, *, at_most_s: float) -> Reservation:
        """Reserve bytes, as soon as it is the caller's turn; at most half of all.

        client: tells one from another. at_most_s: how long to wait.

        Raises:
            OverloadedError: its turn did not come in time.
        """
        # One at least: what is held is forgotten once it is given back.
        waiter = _Waiter(
            max(min(amount, self._total // 2), 1),
            client,
            asyncio.get_running_loop().create_future(),
        )
        self._waiting.append(waiter)
        self._grant()
        try:
            async with asyncio.timeout(at_most_s):
                await waiter.granted
        except BaseException as error:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                self._grant()
            else:  # granted just now
                self._give_back(client, waiter.amount)
            if isinstance(error, TimeoutError):
                raise OverloadedError(
                    f"the calls of others take all memory meant for them; try again in {RETRY_S} s",
                    retry_after_s=RETRY_S,
                ) from error
            raise
        return Reservation(self, client, waiter.amount)

    def _grant(self) -> None:
        """Give their bytes to those whose turn it is."""
        while self._waiting:
            allowed = [w for w in self._waiting if self._may_have(w)]
            if not allowed:
                return
            earliest = min(allowed, key=self._share)
            starves = self._overtaken >= _OVERTAKEN
            first = earliest if starves else min(allowed, key=self._order)
            spared = 0 if starves else self._spared(first)
            if first.amount + spared > self._free:
                return
            self._overtaken = 0 if first is earliest else self._overtaken + 1
            self._waiting.remove(first)
            self._free -= first.amount
            self._held[first.client] += first.amount
            first.granted.set_result(None)

    def _share(self, waiter: _Waiter) -> int:
        """What its client holds."""
        return self._held[waiter.client] * _SHARES // self._total

    def _order(self, waiter: _Waiter) -> tuple[int, int]:
        return self._share(waiter), self._kept.get(waiter.client, waiter.amount)

    def _spared(self, waiter: _Waiter) -> int:
        """Bytes that stay free for clients with small calls, if the waiter's is none of these."""
        if waiter.amount > self._total * _PLACE:
            return 0
        small = self._kept.get(waiter.client, waiter.amount) <= waiter.amount * _SMALL
        return 0 if small else waiter.amount

    def kept(self, client: str, amount: int) -> None:
        """Remember what a call of a client really needed."""
        self._kept.pop(client, None)
        self._kept[client] = amount
        if len(self._kept) > _REMEMBERED:
            del self._kept[next(iter(self._kept))]

    def wanted(self, client: str) -> bool:
        """Whether somebody who holds less than a client waits for bytes."""
        return any(
            self._may_have(waiter)
            and waiter.client != client
            and self._held[waiter.client] + waiter.amount <= self._held[client]
            for waiter in self._waiting
        )

    def _may_have(self, waiter: _Waiter) -> bool:
        """Whether its bytes would not be too many for one client; no if it is leaving."""
        if waiter.granted.done():
            return False
        return self._held[waiter.client] + waiter.amount <= self._total // 2

    def _give_back(self, client: str, amount: int) -> None:
        self._free += amount
        self._held[client] -= amount
        if not self._held[client]:
            del self._held[client]
        self._grant()


class Reservation:
    """Bytes that one call holds."""

    def __init__(self, budget: ByteBudget, client: str, amount: int) -> None:
        self._budget = budget
        self._client = client
        self._amount = amount

    def shrink(self, amount: int) -> None:
        """Keep at most so many bytes: those that the call needs."""
        self._budget.kept(self._client, amount)
        self._keep(amount)

    def _keep(self, amount: int) -> None:
        if amount < self._amount:
            self._budget._give_back(self._client, self._amount - amount)
            self._amount = amount

    @property
    def wanted(self) -> bool:
        """Whether somebody who holds less than this call's client waits for bytes."""
        return self._budget.wanted(self._client)

    def release(self) -> None:
        """Keep none: the call is over."""
        self._budget.freed(self._amount)
        self._keep(0)


@dataclass(eq=False, slots=True)
class _Waiter:
    amount: int
    client: str
    granted: asyncio.Future[None]
