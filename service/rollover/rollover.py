"""The rollover of a site to another model.

    LOADING -> RE_EMBEDDING -> BINDING -> DONE
       |             |            |
       '-------------'------------'-----> FAILED

While crops are re-embedded, the site answers and enrolls with the model before. Then enrollment is
refused, the last sightings are re-embedded, and one transaction binds the site to the new model.
What is re-embedded is stored: another rollover to the same model continues after a failed one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from service.errors import RolloverRunningError
from service.gallery.live_sites import LiveSites
from service.operations.metrics import Metrics
from service.rollover.reembed import EmbedCrops, Reembedding
from service.store.statements import require_model
from service.store.store import Store
from service.types import ModelInfo, RolloverProgress, check_site_id

T = TypeVar("T")


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
    """One rollover. batch: crops per step. clock: the time, aware."""

    def __init__(
        self,
        store: Store,
        sites: LiveSites,
        activation: Activation,
        *,
        batch: int,
        clock: Callable[[], datetime],
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._sites = sites
        self._activation = activation
        self._clock = clock
        self._metrics = metrics
        self._reembedding = Reembedding(
            store,
            activation.site,
            activation.model.fingerprint,
            activation.embed,
            batch=batch,
            drop_unusable=activation.drop_unusable,
        )
        self.state = RolloverState.RE_EMBEDDING

    @property
    def model(self) -> ModelInfo:
        """The model that the site is to use."""
        return self._activation.model

    async def run(self) -> AsyncGenerator[RolloverProgress]:
        """Do it; see `Rollovers.run`."""
        site = self._activation.site
        row = await asyncio.to_thread(self._store.site, site)
        dropped = 0
        if row.model != self.model.fingerprint:
            await asyncio.to_thread(
                self._store.register_model, self.model.fingerprint, self.model.reference
            )
            with self._counted():
                async with aclosing(self._reembedding.run()) as steps:
                    async for embedded in steps:
                        unusable = len(self._reembedding.unusable)
                        total = max(row.sightings, embedded + unusable)
                        now = self._sites.as_site(row)
                        yield RolloverProgress(embedded, total, unusable, now)
                dropped = await self._bind()
        elif self._sites.get(site) is None:
            await self._build_index()
        self.state = RolloverState.DONE
        now = self._sites.as_site(await asyncio.to_thread(self._store.site, site))
        yield RolloverProgress(now.sightings, now.sightings, dropped, now)

    async def _bind(self) -> int:
        """Bind the site to the model; returns how many sightings were dropped.

        Enrollment is refused from here on. Sightings that were enrolled since the last step, or
        whose write was queued, are re-embedded first: so this ends, and none is left out.
        """
        self.state = RolloverState.BINDING
        with self._sites.pause_enrollment(self._activation.site):
            while True:
                async for _ in self._reembedding.run():
                    pass
                bound = self._store.bind_site(
                    self._activation.site,
                    self.model.fingerprint,
                    unusable=sorted(self._reembedding.unusable),
                    undo=self._activation.undo,
                    now=self._clock(),
                    then=self._bound,
                )
                dropped = await _completed(bound)
                if dropped is not None:
                    return dropped

    def _bound(self, _: int) -> None:
        """Called by the writer's thread after the commit."""
        self._sites.build(self._activation.site, self.model)
        self.state = RolloverState.DONE

    async def _build_index(self) -> None:
        """Let a site answer that is bound to the model, but whose model was not loaded at start."""
        built = self._store.submit(
            lambda connection: require_model(
                connection, self._activation.site, self.model.fingerprint
            ),
            lambda _: self._sites.build(self._activation.site, self.model),
        )
        await _completed(built)

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


async def _completed(write: Future[T]) -> T:
    """The result of a write. A cancelled caller waits for the end of the write, too: until then it
    is open which model the site has."""
    over = asyncio.wrap_future(write)
    cancelled: asyncio.CancelledError | None = None
    while not over.done():
        try:
            await asyncio.wait({over})
        except asyncio.CancelledError as error:
            cancelled = error
    result = over.result()
    if cancelled is not None:
        raise cancelled
    return result
