"""The rollover of a site to another model.

    LOADING -> RE_EMBEDDING <-> BINDING -> DONE
       |             |             |
       '-------------'-------------'-----> FAILED

While crops are re-embedded, the site answers and enrolls with the model before. Then enrollment is
refused, the last sightings are re-embedded, and one transaction binds the site to the new model.
Where too many are left for that, enrollment is allowed for as long as it was refused, then the end
is tried again: under load re-embedding gains on enrollment only while that is refused.
What is re-embedded is stored: another rollover to the same model continues after a failed one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from service.errors import DamagedRowError, RolloverRunningError
from service.gallery.live_sites import LiveSites
from service.gallery.next_index import NextIndex
from service.operations.metrics import Metrics
from service.rollover.reembed import EmbedCrops, Reembedding
from service.store.completion import completed
from service.store.records import SiteRow
from service.store.statements import require_model
from service.store.store import Store
from service.types import ModelInfo, RolloverProgress, check_site_id

log = logging.getLogger("resight.rollover")

PAUSE_S = 1.0
"""Seconds that enrollment is refused for at a time; longer only where one step takes longer."""

MAX_DROPPED_AT_ONCE = 1000
"""Most unusable sightings that are dropped in the transaction that binds the site."""

_PORTION = 500

_LAST_STEPS = 4
"""The last steps are so many times smaller: enrollment waits for them."""


class RolloverState(StrEnum):
    """The state of a rollover.

    LOADING, RE_EMBEDDING: the site answers with the model before. BINDING: enrollment is refused.
    DONE: the site answers with the new model. FAILED: it ended early, and the site keeps the model
    before.
    """

    LOADING = "LOADING"
    RE_EMBEDDING = "RE_EMBEDDING"
    BINDING = "BINDING"
    DONE = "DONE"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Activation:
    """The request of a rollover.

    model: the site's next one. embed: with that model. drop_unusable: delete sightings without a
    usable crop at the end. undo: take back the site's last activation instead of adding one.
    """

    site: str
    model: ModelInfo
    embed: EmbedCrops
    drop_unusable: bool
    undo: bool = False


class Rollover:
    """One rollover. batch: crops per step. clock: the time, aware. monotonic: seconds."""

    def __init__(
        self,
        store: Store,
        sites: LiveSites,
        activation: Activation,
        *,
        batch: int,
        clock: Callable[[], datetime],
        metrics: Metrics,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._sites = sites
        self._activation = activation
        self._clock = clock
        self._monotonic = monotonic
        self._metrics = metrics
        self._batch = batch
        self._handled: set[int] = set()
        self._dropped = 0
        self.state = RolloverState.RE_EMBEDDING

    @property
    def model(self) -> ModelInfo:
        """The model that the site is to use."""
        return self._activation.model

    async def run(self) -> AsyncGenerator[RolloverProgress]:
        """Do it; see `Rollovers.run`."""
        site = self._activation.site
        row = await asyncio.to_thread(self._store.site, site)
        dropped: int | None = None
        if row.model != self.model.fingerprint:
            following = await asyncio.to_thread(self._sites.prepare, site, self.model)
            work = Reembedding(
                self._store,
                site,
                following.checked.site,
                self.model.fingerprint,
                self._activation.embed,
                drop_unusable=self._activation.drop_unusable,
            )
            with self._counted(), self._sites.preparing(following):
                paused = 0.0
                while dropped is None:
                    async with aclosing(self._catch_up(work, paused)) as steps:
                        async for step in steps:
                            yield step
                    await asyncio.to_thread(following.follow)
                    await self._drop_most(work, following)
                    begun = self._monotonic()
                    dropped = await self._try_to_bind(work, following)
                    paused = self._monotonic() - begun
        else:
            live = self._sites.get(site)
            if live is None or live.model.fingerprint != self.model.fingerprint:
                await self._build_index()
        self.state = RolloverState.DONE
        now = self._sites.as_site(await asyncio.to_thread(self._store.site, site))
        yield RolloverProgress(now.sightings, now.sightings, self._dropped + (dropped or 0), now)

    async def _drop_most(self, work: Reembedding, following: NextIndex) -> None:
        """Drop unusable sightings, but for the few that binding drops at once.

        Others write between two portions. Where the rollover ends early, these are gone already.
        """
        site = self._activation.site
        rows = sorted(set(work.unusable) - self._handled)
        for start in range(0, len(rows) - MAX_DROPPED_AT_ONCE, _PORTION):
            portion = rows[start : start + _PORTION]
            dropping = self._store.drop_sightings(
                site, self.model.fingerprint, portion, following.checked.site, self._gone
            )
            gone = await completed(asyncio.wrap_future(dropping))
            self._handled.update(portion)
            self._dropped += len(gone)  # their owners may have deleted the others

    def _gone(self, sightings: Sequence[str]) -> None:
        """Called by the writer's thread after the commit."""
        for sighting in sightings:
            self._sites.delete(self._activation.site, sighting)

    async def _catch_up(self, work: Reembedding, paused: float) -> AsyncGenerator[RolloverProgress]:
        """Re-embed what lacks a vector by now, while others enroll.

        paused: seconds that enrollment was refused for just before; it is allowed for as long. What
        was enrolled since the beginning is re-embedded in a hurry: otherwise it may never end.
        """
        self.state = RolloverState.RE_EMBEDDING
        until = self._monotonic() + paused
        row, embedded = await asyncio.to_thread(self._count)
        seen, unusable = work.seen, len(work.unusable)
        lacking = row.sightings - embedded - (unusable - len(self._handled))
        async with aclosing(work.run(self._batch, hurry=paused > 0)) as steps:
            async for _ in steps:
                now = embedded + work.seen - seen - (len(work.unusable) - unusable)
                total = max(row.sightings, now + len(work.unusable))
                site = self._sites.as_site(row)
                yield RolloverProgress(now, total, len(work.unusable), site)
                if work.seen - seen >= lacking and self._monotonic() >= until:
                    return

    def _count(self) -> tuple[SiteRow, int]:
        """The site, and how many of its sightings have a vector of the model."""
        row = self._store.site(self._activation.site)
        return row, self._store.count_embedded(row.id, self.model.fingerprint)

    async def _try_to_bind(self, work: Reembedding, following: NextIndex) -> int | None:
        """Bind the site to the model, and refuse enrollment meanwhile.

        Sightings that were enrolled since the last step, or whose write was queued, are re-embedded
        first: none is left out.

        Returns:
            How many sightings were dropped; None where re-embedding took too long.
        """
        self.state = RolloverState.BINDING
        site, batch = self._activation.site, max(self._batch // _LAST_STEPS, 1)
        with self._sites.pause_enrollment(site):
            until = self._monotonic() + PAUSE_S
            in_time = True
            while True:
                begun = self._monotonic()
                async with aclosing(work.run(batch, hurry=True)) as steps:
                    async for _ in steps:
                        now = self._monotonic()
                        in_time = now + (now - begun) < until
                        if not in_time:  # the next step would end too late
                            break
                        begun = now
                await asyncio.to_thread(following.follow)
                bound = self._store.bind_site(
                    site,
                    self.model.fingerprint,
                    unusable=sorted(work.unusable),
                    undo=self._activation.undo,
                    now=self._clock(),
                    then=lambda _: self._bound(following),
                    checked=following.checked,
                )
                dropped = await completed(asyncio.wrap_future(bound))
                if dropped is not None:
                    return dropped
                if not in_time or self._monotonic() >= until:
                    log.info(
                        "site %s enrolls faster than it is embedded again; the end is tried later",
                        site,
                    )
                    return None

    def _bound(self, following: NextIndex) -> None:
        """Called by the writer's thread after the commit."""
        self._sites.use(following)
        self.state = RolloverState.DONE

    async def _build_index(self) -> None:
        """Let a site answer with the model that it is bound to.

        The model was not loaded at the start, or what follows the commit that bound it has failed.
        """
        site = self._activation.site
        following = await asyncio.to_thread(self._sites.prepare, site, self.model)
        with self._sites.preparing(following):
            await asyncio.to_thread(following.follow)
            if following.checked.lacking:
                raise DamagedRowError(
                    f"the database is damaged: sightings of site {site} have no vector of its "
                    "model; restore the database from a backup"
                )
            built = self._store.submit(
                lambda connection: require_model(connection, site, self.model.fingerprint),
                lambda _: self._sites.use(following),
            )
            await completed(asyncio.wrap_future(built))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        finally:
            if self.state is not RolloverState.DONE:
                self.state = RolloverState.FAILED
            self._metrics.rollovers.labels(self.state.value.lower()).inc()


@dataclass(slots=True)
class _Running:
    """A rollover of which others are told; none while its model is loaded."""

    reference: str
    rollover: Rollover | None = None

    @property
    def state(self) -> RolloverState:
        return RolloverState.LOADING if self.rollover is None else self.rollover.state


class Rollovers:
    """The running rollovers, at most one per site. Belongs to one event loop.

    batch: crops per step. clock: the time, aware.
    """

    def __init__(
        self,
        store: Store,
        sites: LiveSites,
        *,
        batch: int,
        clock: Callable[[], datetime],
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._sites = sites
        self._batch = batch
        self._clock = clock
        self._metrics = metrics
        self._running: dict[str, _Running] = {}

    async def run(
        self, site: str, reference: str, activation: AbstractAsyncContextManager[Activation]
    ) -> AsyncGenerator[RolloverProgress]:
        """Re-embed the kept crops of a site with a model, then bind the site to it.

        Args:
            site: the site's id.
            reference: of the model, for others who ask.
            activation: gives the request; entered where no other rollover of the site runs, and
                left at the end. It loads the model and holds it.

        Yields:
            The progress after each batch, and at the end.

        Raises:
            SiteNotFoundError
            RolloverRunningError: a rollover of the site is running, or, where the last activation
                is to be undone, one has ended meanwhile.
            CropUnusableError: a sighting has no usable crop, and may not be dropped.
            CallError: of `activation`.
        """
        check_site_id(site)
        if (running := self._running.get(site)) is not None:
            raise RolloverRunningError(
                f"a rollover of site {site} to {running.reference} is running "
                f"({running.state.value}); wait for it, then try again"
            )
        running = self._running[site] = _Running(reference)
        try:
            async with activation as asked:
                running.rollover = Rollover(
                    self._store,
                    self._sites,
                    asked,
                    batch=self._batch,
                    clock=self._clock,
                    metrics=self._metrics,
                )
                async with aclosing(running.rollover.run()) as steps:
                    async for step in steps:
                        yield step
        finally:
            del self._running[site]
