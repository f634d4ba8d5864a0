"""Adaptations for callers: start, get, list, watch, cancel."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from models.errors import DamagedFileError
from models.job_contract import NEEDS_SOURCES, AdaptationRound
from service.errors import NotConfiguredError, OverloadedError, ShuttingDownError
from service.jobs.records import Adaptation, AdaptationSpec, JobState
from service.jobs.rows import JobRows
from service.jobs.runner import JobSetup
from service.jobs.supervisor import Supervisor
from service.store.completion import completed
from service.types import check_adaptation_id, check_site_id

log = logging.getLogger("resight.jobs")

MAX_WATCHES = 16
"""Most that watch one adaptation at a time."""

_WATCH_RETRY_S = 5.0


class Adaptations:
    """All adaptations of a server. Belongs to one event loop.

    clock: the time, aware. new_id: gives random characters. poll_s: seconds between two reads of a
    watched adaptation.
    """

    def __init__(
        self,
        rows: JobRows,
        supervisor: Supervisor,
        setup: JobSetup,
        *,
        clock: Callable[[], datetime],
        new_id: Callable[[], str],
        poll_s: float = 0.5,
    ) -> None:
        self._rows = rows
        self._supervisor = supervisor
        self._setup = setup
        self._clock = clock
        self._new_id = new_id
        self._poll_s = poll_s
        self._stopping = asyncio.Event()
        self._reported: set[str] = set()
        self._watches: Counter[tuple[str, str]] = Counter()
        self._reads: dict[
            tuple[str, str, int], asyncio.Task[tuple[Adaptation, list[AdaptationRound]]]
        ] = {}

    def begin(self) -> None:
        """Run the adaptations that are not over, also those from before a restart."""
        self._supervisor.begin()

    async def stop(self) -> None:
        """End all watches and processes; the next start continues what is not over."""
        self._stopping.set()
        await self._supervisor.stop()

    async def start(self, site: str, spec: AdaptationSpec) -> Adaptation:
        """Add an adaptation of a site; it runs when its turn comes.

        Raises:
            NotConfiguredError: the server lacks what it would start from.
            SiteNotFoundError, AdaptationUnfinishedError, NoCropsError
        """
        check_site_id(site)
        if not self._setup.inits:
            raise NotConfiguredError(
                "this server has no networks to start from; set RESIGHT_ADAPT_INITS to the run "
                "folders of `resight pretrain` and restart it"
            )
        if spec.method in NEEDS_SOURCES and not self._setup.sources:
            raise NotConfiguredError(
                f"{spec.method} also learns from labelled crops, and this server has none; set "
                "RESIGHT_ADAPT_SOURCES to the folder that its networks were pre-trained on"
            )
        now = self._clock()
        name = f"{now.astimezone(UTC):%Y%m%d-%H%M%S}-{self._new_id()[:6]}"
        return await completed(self._changed(self._rows.add(name, site, spec, now)))

    async def get(
        self, site: str, adaptation: str, after: int = 0
    ) -> tuple[Adaptation, list[AdaptationRound]]:
        """One adaptation and its rounds after one of this number.

        They are some of them, and `rounds_left` is set, where they are many; none, and
        `rounds_error` is set, where they are damaged or lost.

        Raises:
            SiteNotFoundError, AdaptationNotFoundError
        """
        check_site_id(site)
        check_adaptation_id(adaptation)
        found = await asyncio.to_thread(self._rows.get, site, adaptation)
        # After the row: if that says it is over, these are all rounds.
        try:
            rounds, left = await asyncio.to_thread(
                self._supervisor.folder(adaptation).rounds_after, after, over=found.state.over
            )
        except DamagedFileError as error:
            if adaptation not in self._reported:
                self._reported.add(adaptation)
                log.error("the rounds of adaptation %s cannot be read: %s", adaptation, error)
            problem = "the rounds of the run cannot be read; the server's log says why"
            return replace(found, rounds_error=problem), []
        return replace(found, rounds_left=left), rounds

    async def page(
        self, site: str, *, after: str, limit: int, max_bytes: int
    ) -> tuple[list[Adaptation], bool]:
        """Adaptations of a site after the one of an id, and whether there are more.

        See `JobRows.page`.
        """
        check_site_id(site)
        return await asyncio.to_thread(
            self._rows.page, site, after=after, limit=limit, max_bytes=max_bytes
        )

    async def page_bytes(self, site: str, *, after: str, limit: int) -> int:
        """What such a page takes on the wire at most; see `JobRows.page_bytes`."""
        check_site_id(site)
        return await asyncio.to_thread(self._rows.page_bytes, site, after=after, limit=limit)

    async def cancel(self, site: str, adaptation: str) -> Adaptation:
        """Cancel an adaptation; one that runs is CANCELLED once its process has ended.

        Raises:
            SiteNotFoundError, AdaptationNotFoundError, AdaptationOverError
        """
        check_site_id(site)
        check_adaptation_id(adaptation)
        cancelling = self._rows.cancel(site, adaptation, self._clock())
        return await completed(self._changed(cancelling, cancelled=adaptation))

    async def _changed(self, write: Future[Adaptation], cancelled: str = "") -> Adaptation:
        """The adaptation after a write; the supervisor is told of it."""
        written = await asyncio.wrap_future(write)
        self._supervisor.changed(cancelled)
        await self._supervisor.count()
        return written

    def site_is_gone(self) -> None:
        """A site was deleted: the folders of its adaptations are removed."""
        self._supervisor.changed()

    async def watch(
        self, site: str, adaptation: str
    ) -> AsyncGenerator[tuple[Adaptation, AdaptationRound | None]]:
        """Each round once, as soon as it is finished, and each state, until it is over.

        That its rounds cannot be read is told as a state is. All who have seen as many rounds of
        one share its reads.

        Raises:
            SiteNotFoundError, AdaptationNotFoundError, ShuttingDownError
            OverloadedError: `MAX_WATCHES` watch it already.
        """
        key = site, adaptation
        if self._watches[key] >= MAX_WATCHES:
            raise OverloadedError(
                f"{MAX_WATCHES} watch adaptation {adaptation} already; close one of them, or ask "
                "for it now and then (GetAdaptation)",
                retry_after_s=_WATCH_RETRY_S,
            )
        self._watches[key] += 1
        try:
            async with aclosing(self._steps(site, adaptation)) as steps:
                async for step in steps:
                    yield step
        finally:
            self._watches[key] -= 1
            if not self._watches[key]:
                del self._watches[key]

    async def _steps(
        self, site: str, adaptation: str
    ) -> AsyncGenerator[tuple[Adaptation, AdaptationRound | None]]:
        seen = 0
        sent: tuple[JobState, str] | None = None
        latest, rounds = await self.get(site, adaptation)
        while True:
            left, latest = latest.rounds_left, replace(latest, rounds_left=False)
            for round_ in rounds:
                yield latest, round_
                seen = round_.number
            if left:
                latest, rounds = await self.get(site, adaptation, seen)
                continue
            if (latest.state, latest.rounds_error) != sent:
                sent = latest.state, latest.rounds_error
                yield latest, None
            if latest.state.over:
                return
            latest, rounds = await self._next_read(site, adaptation, seen)

    async def _next_read(
        self, site: str, adaptation: str, seen: int
    ) -> tuple[Adaptation, list[AdaptationRound]]:
        """What the next read gives, one for all that wait for it and have seen as many rounds."""
        key = site, adaptation, seen
        read = self._reads.get(key)
        # One that is done is of the past; waiting for it gives way to nobody, not even to its end.
        if read is None or read.done():
            read = self._reads[key] = asyncio.create_task(self._read_later(*key))
            read.add_done_callback(partial(self._was_read, key))
        # Who leaves does not end it for the others. The last one leaves it without a reader.
        return await asyncio.shield(read)

    def _was_read(self, key: tuple[str, str, int], read: asyncio.Task[Any]) -> None:
        if self._reads[key] is read:
            del self._reads[key]
        if not read.cancelled():
            read.exception()  # known to those who wait; where nobody does, asyncio would log it

    async def _read_later(
        self, site: str, adaptation: str, seen: int
    ) -> tuple[Adaptation, list[AdaptationRound]]:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), self._poll_s)
        if self._stopping.is_set():
            raise ShuttingDownError(
                "the server is stopping; its next start continues the adaptation"
            )
        return await self.get(site, adaptation, seen)
