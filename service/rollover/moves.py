"""Which sites move to another model at this time, and how one does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from datetime import datetime

from service.errors import ReembedRunningError, SwitchingError
from service.gallery.live_sites import ActiveSites
from service.operations.metrics import Metrics
from service.rollover.reembed import Embed, Move, to_the_end
from service.store.statements import require_model
from service.store.store import Store
from service.types import ModelInfo, ReembedProgress

_SWITCH_S = 0.2
"""After how many seconds to come back while a site changes to another model."""


class Moves:
    """Sites on their way to another model. Belongs to one event loop. clock: the time, aware."""

    def __init__(
        self,
        store: Store,
        active: ActiveSites,
        *,
        clock: Callable[[], datetime],
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._active = active
        self._clock = clock
        self._metrics = metrics
        self._targets: dict[str, str] = {}  # site -> fingerprint of the model it moves to
        self._switching: set[str] = set()

    def targets(self) -> set[str]:
        """Fingerprints of the models that sites move to."""
        return set(self._targets.values())

    def check_enrolment(self, site: str) -> None:
        """Raise `SwitchingError` while a site changes over."""
        if site in self._switching:
            raise SwitchingError(
                f"site {site} changes to another model; try again in {_SWITCH_S} s",
                retry_after_s=_SWITCH_S,
            )

    async def move(
        self,
        site: str,
        model: ModelInfo,
        embed: Embed,
        *,
        batch: int,
        drop_unusable: bool,
        back: bool,
    ) -> AsyncGenerator[ReembedProgress]:
        """See `Gallery.move`."""
        if site in self._targets:
            raise ReembedRunningError(f"site {site} is being embedded again already; wait for it")
        self._targets[site] = model.fingerprint
        try:
            row = await asyncio.to_thread(self._store.site, site)
            dropped = 0
            if row.model != model.fingerprint:
                to = model.fingerprint
                await asyncio.to_thread(self._store.register_model, to, model.reference)
                move = Move(
                    self._store,
                    site,
                    to,
                    embed,
                    batch=batch,
                    drop_unusable=drop_unusable,
                    back=back,
                )
                with self._counted(site, model):
                    async with aclosing(move.embed_crops()) as steps:
                        async for embedded in steps:
                            total = max(row.sightings, embedded + move.dropped)
                            now = self._active.as_site(row)
                            yield ReembedProgress(embedded, total, move.dropped, now)
                    dropped = await self._change_over(site, model, move)
            elif self._active.get(site) is None:
                await self._wake(site, model)
            now = self._active.as_site(await asyncio.to_thread(self._store.site, site))
            yield ReembedProgress(now.sightings, now.sightings, dropped, now)
        finally:
            del self._targets[site]

    async def _change_over(self, site: str, model: ModelInfo, move: Move) -> int:
        return await move.change_over(
            self._refusing_enrolment(site),
            self._clock(),
            lambda _: self._active.build(site, model),
        )

    async def _wake(self, site: str, model: ModelInfo) -> None:
        """Let a site answer whose model was not there when the server started."""
        built = self._store.submit(
            lambda connection: require_model(connection, site, model.fingerprint),
            lambda _: self._active.build(site, model),
        )
        await to_the_end(built)

    @contextmanager
    def _counted(self, site: str, model: ModelInfo) -> Iterator[None]:
        try:
            yield
        finally:
            active = self._active.get(site)
            done = active is not None and active.model == model
            self._metrics.switches.labels("done" if done else "failed").inc()

    @contextmanager
    def _refusing_enrolment(self, site: str) -> Iterator[None]:
        self._switching.add(site)
        try:
            yield
        finally:
            self._switching.discard(site)
