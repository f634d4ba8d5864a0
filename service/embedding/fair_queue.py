"""A queue of many clients' images that is fair between the clients.

Weighted fair queueing (Demers, Keshav and Shenker, SIGCOMM 1989) with equal weights: a call has a
finish tag, the virtual time at which it would end if all clients shared the model evenly, and
images leave in the order of their tags. So a client that sends much waits for itself, and no other
one for it; a short call goes before longer ones; equal calls of clients that have one each keep
their order. None starves: what comes later gets later tags.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T")

_FEW = 1 / 64
"""Of the queue, what a client may hold and still be one with few images."""

_SPARE = 1 / 8
"""Places besides the queue, in its own size, for clients with few images."""


@dataclass(eq=False, slots=True)
class Admitted:
    """A call that has its places.

    spare: whether these are besides the queue. finish: its tag. waiting: its items in the queue.
    taken: its items that left the queue for the model.
    """

    client: str
    images: int
    spare: bool
    finish: float
    waiting: int = 0
    taken: int = 0


class FairQueue(Generic[T]):
    """The places of calls, and what waits for the model. Belongs to one event loop.

    most: images admitted and not yet released from which on no further call is admitted. The last
    call may exceed it: were all its places required at once, smaller calls would take them before.
    Where the places are taken, clients with few images still come in, to places of their own.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0
        self._few = max(int(most * _FEW), 1)
        self._spare = max(int(most * _SPARE), 1)
        self._held_in_spare = 0
        self._held_by: Counter[str] = Counter()
        self._last: dict[str, float] = {}
        self._now = 0.0
        self._pushed = 0
        self._waiting: list[tuple[float, int, Admitted, T]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def has_room(self, client: str, images: int) -> bool:
        """Whether so many more images of a client are admitted."""
        return self._is_open() or (
            self._held_by[client] + images <= self._few
            and self._held_in_spare + images <= self._spare
        )

    def _is_open(self) -> bool:
        return self.held - self._held_in_spare < self.most

    def admit(self, client: str, images: int) -> Admitted:
        """Give a call its places; `has_room` has said that there are any."""
        spare = not self._is_open()
        finish = max(self._now, self._last.get(client, 0.0)) + images
        self._last[client] = finish
        self._held_by[client] += images
        self.held += images
        self._held_in_spare += images if spare else 0
        return Admitted(client, images, spare, finish)

    def release(self, call: Admitted) -> int:
        """Take back the places of a call; returns how many of its items still waited.

        These leave with it: else they would take memory without a place, and the virtual time would
        run on for what nobody embeds. Nor is its client charged for what the model did not get: one
        that gives up calls would else wait for ever longer.
        """
        self.held -= call.images
        self._held_in_spare -= call.images if call.spare else 0
        self._held_by[call.client] -= call.images
        self._last[call.client] -= call.images - call.taken
        if not self._held_by[call.client]:
            del self._held_by[call.client], self._last[call.client]
        left, call.waiting = call.waiting, 0
        if left:
            self._waiting = [entry for entry in self._waiting if entry[2] is not call]
            heapify(self._waiting)
        return left

    def push(self, call: Admitted, item: T) -> None:
        """Add an item of an admitted call."""
        self._pushed += 1
        call.waiting += 1
        heappush(self._waiting, (call.finish, self._pushed, call, item))

    def popleft(self) -> T:
        """The next item, in the order of finish tags."""
        _, _, call, item = heappop(self._waiting)
        call.waiting -= 1
        call.taken += 1
        self._now += 1 / max(len(self._held_by), 1)
        return item
