"""Galleries: the store and its index as one, each site always of one model.

The index follows the store: the writer's thread applies each change after its commit, in the order
of the commits. A site of a model that is not loaded has no index, and neither enrolls nor searches
until it has moved to one that is.

Vectors come with the fingerprint of the model that made them. Where the site uses another one, as
it moved meanwhile, they are refused with `ModelMismatchError`: embed again, with the model that
`require_ready` names.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TypeVar

from service.errors import CallError, SightingNotFoundError
from service.gallery.live_sites import ActiveSites
from service.gallery.search import search
from service.operations.metrics import Metrics
from service.rollover.moves import Moves
from service.rollover.reembed import Embed
from service.store.records import (
    Answer,
    ModelRow,
    NewRow,
    Request,
    SiteRow,
    Stored,
    new_rows,
)
from service.store.statements import model_mismatch, sighting_not_found
from service.store.store import Store
from service.types import (
    EVERY_SIGHTING,
    Enrolled,
    Match,
    ModelInfo,
    NewSighting,
    ReembedProgress,
    Sighting,
    SightingFilter,
    Site,
    Vector,
    check_sighting_id,
    check_site_id,
)

log = logging.getLogger("resight.gallery")

T = TypeVar("T")


class Gallery:
    """All galleries of a server.

    model: the server's own, of new sites. clock: the time, aware. new_id: a fresh sighting id.
    keep_crops: store the images. request_ttl: how long a request id is remembered.
    search_threads: searches at a time.
    """

    def __init__(
        self,
        store: Store,
        model: ModelInfo,
        *,
        clock: Callable[[], datetime],
        new_id: Callable[[], str],
        keep_crops: bool,
        request_ttl: timedelta,
        search_threads: int,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._model = model
        self._clock = clock
        self._new_id = new_id
        self._keep_crops = keep_crops
        self._request_ttl = request_ttl
        self._metrics = metrics
        self._active = ActiveSites(store, metrics)
        self._moves = Moves(store, self._active, clock=clock, metrics=metrics)
        self._pool = ThreadPoolExecutor(search_threads, thread_name_prefix="resight-search")

    @property
    def model(self) -> ModelInfo:
        """The server's own model."""
        return self._model

    def load(self, others: Sequence[ModelInfo] = ()) -> None:
        """Register the models and build the index of every site that uses one of them.

        others: loaded models besides the server's own.
        """
        self._store.forget_requests(self._oldest_request()).result()
        loaded = {model.fingerprint: model for model in (*others, self._model)}
        for model in loaded.values():
            self._store.register_model(model.fingerprint, model.reference)
        for site in self._store.sites():
            if site.model in loaded:
                self._active.build(site.id, loaded[site.model])
            else:
                log.warning(
                    "site %s is embedded with %s (fingerprint %s), not %s (%s): it "
                    "refuses to enroll and to search until `resight site reembed %s`",
                    site.id,
                    site.reference,
                    site.model[:12],
                    self._model.reference,
                    self._model.fingerprint[:12],
                    site.id,
                )

    def close(self) -> None:
        """Stop the searching threads; the store is its owner's to close."""
        self._pool.shutdown(wait=True)

    # --- sites

    async def create_site(self, site: str) -> Site:
        """Make an empty site; `SiteExistsError` if the name is taken."""
        check_site_id(site)

        await asyncio.wrap_future(
            self._store.create_site(
                site,
                self._model.fingerprint,
                self._clock(),
                lambda _: self._active.add_empty(site, self._model),
            )
        )
        return await self.site(site)

    async def site(self, site: str) -> Site:
        """One site; `SiteNotFoundError` if there is none."""
        check_site_id(site)
        return self._active.as_site(await self._in_pool(lambda: self._store.site(site)))

    async def sites(self) -> list[Site]:
        """All sites, ordered by id."""
        return [self._active.as_site(row) for row in await self._in_pool(self._store.sites)]

    async def delete_site(self, site: str, *, force: bool) -> None:
        """Delete a site; `SiteNotEmptyError` if it has sightings and not `force`."""
        check_site_id(site)

        await self._forget_requests()
        await asyncio.wrap_future(
            self._store.delete_site(site, force=force, then=lambda _: self._active.remove(site))
        )

    # --- sightings

    async def repeated(self, site: str, request: Request) -> list[Enrolled | CallError] | None:
        """The answer of an earlier `enroll` with this request id, None if there was none."""
        self._moves.check_enrolment(site)
        model = (await self.require_ready(site)).fingerprint
        answer = await self._in_pool(lambda: self._store.repeated(site, model, request))
        return None if answer is None else await self._as_enrolled(site, answer)

    async def enroll(
        self,
        site: str,
        items: Sequence[tuple[NewSighting, Vector] | CallError],
        request: Request | None = None,
        *,
        model: str | None = None,
    ) -> list[Enrolled | CallError]:
        """Store sightings durably, in one transaction; one of a known id is replaced.

        Args:
            site: where to.
            items: sightings with their embeddings; items that failed before pass through.
            request: of an earlier call that did the same: its answer is given.
            model: fingerprint of what embedded them; the server's own if not given.

        Returns:
            What became of each item.

        Raises:
            SiteNotFoundError, ModelMismatchError, RequestIdReusedError, StoreFullError
            SwitchingError: the site changes to another model at this moment.
        """
        check_site_id(site)
        self._moves.check_enrolment(site)
        now = self._clock()
        rows = new_rows(items, now=now, new_id=self._new_id, keep_crops=self._keep_crops)

        def committed(answer: Answer) -> None:
            if not answer.repeated:
                stored = [row for row in rows if isinstance(row, NewRow)]
                numbered = zip(stored, answer.numbers, strict=True)
                self._active.upsert(site, [row.entry(number) for row, number in numbered])

        answer = await asyncio.wrap_future(
            self._store.enroll(
                site,
                model or self._model.fingerprint,
                rows,
                request=request,
                now=now,
                request_ttl=self._request_ttl,
                then=committed,
            )
        )
        if answer.repeated:
            return await self._as_enrolled(site, answer)
        replaced = {i.id for i in answer.items if isinstance(i, Stored) and i.replaced}
        return [
            row
            if isinstance(row, CallError)
            else Enrolled(row.sighting, row.sighting.id in replaced)
            for row in rows
        ]

    async def sighting(self, site: str, sighting: str) -> Sighting:
        """One sighting; `SightingNotFoundError` if there is none."""
        check_site_id(site)
        check_sighting_id(sighting)
        return await self._in_pool(lambda: self._store.sighting(site, sighting))

    async def crop(self, site: str, sighting: str) -> bytes | None:
        """The kept image of a sighting, None if there is none."""
        return await self._in_pool(lambda: self._store.crop(site, sighting))

    async def list_sightings(
        self, site: str, wanted: SightingFilter, *, after: str, limit: int
    ) -> list[Sighting]:
        """The first `limit` sightings with an id above `after`, ordered by id."""
        check_site_id(site)
        return await self._in_pool(
            lambda: self._store.list_sightings(site, wanted, after=after, limit=limit)
        )

    async def delete_sighting(self, site: str, sighting: str) -> None:
        """Delete one sighting; `SightingNotFoundError` if there is none."""
        check_site_id(site)
        check_sighting_id(sighting)

        await self._forget_requests()
        await asyncio.wrap_future(
            self._store.delete_sighting(
                site, sighting, lambda _: self._active.delete(site, sighting)
            )
        )

    # --- search

    async def require_ready(self, site: str) -> ModelInfo:
        """The model that a site uses; `SiteNotFoundError`, or `ModelMismatchError` where it is not
        loaded."""
        check_site_id(site)
        active = self._active.get(site)
        if active is None:
            row = await self._in_pool(lambda: self._store.site(site))
            raise self._mismatch(row, self._model)
        return active.model

    async def search(
        self,
        site: str,
        queries: Sequence[Vector | str],
        *,
        limit: int,
        wanted: SightingFilter = EVERY_SIGHTING,
        model: str | None = None,
    ) -> list[list[Match] | SightingNotFoundError]:
        """The sightings most similar to each query, best first, equal scores by id.

        Args:
            site: where to search.
            queries: embeddings, or ids of sightings (which are not among their own matches).
            limit: the most matches per query, >= 1.
            wanted: which sightings to consider.
            model: fingerprint of what embedded the queries; the server's own if not given.

        Raises:
            SiteNotFoundError, ModelMismatchError
        """
        await self.require_ready(site)
        made_by = model or self._model.fingerprint
        return await self._in_pool(lambda: self._search(site, queries, limit, wanted, made_by))

    def _search(
        self,
        site: str,
        queries: Sequence[Vector | str],
        limit: int,
        wanted: SightingFilter,
        model: str,
    ) -> list[list[Match] | SightingNotFoundError]:
        # One look: a move that ends from here on does not touch this index any more.
        active = self._active.get(site)
        if active is None:  # deleted meanwhile
            raise self._mismatch(self._store.site(site), self._model)
        if active.model.fingerprint != model:
            raise self._mismatch(self._store.site(site), active.model)
        with self._metrics.stage("search"):
            return search(active.index, self._store, site, queries, limit, wanted)

    # --- another model

    def models_in_use(self) -> set[str]:
        """Fingerprints of the models that sites use or move to."""
        return self._active.models() | self._moves.targets()

    def model_of(self, site: str) -> ModelInfo | None:
        """The model that a site answers with, None if it does not."""
        active = self._active.get(site)
        return None if active is None else active.model

    async def earlier_model(self, site: str) -> ModelRow | None:
        """The model that a site used before the one in use; `SiteNotFoundError`."""
        check_site_id(site)
        return await self._in_pool(lambda: self._store.earlier_model(site))

    def move(
        self,
        site: str,
        model: ModelInfo,
        embed: Embed,
        *,
        batch: int,
        drop_unusable: bool,
        back: bool = False,
    ) -> AsyncGenerator[ReembedProgress]:
        """Embed the kept crops of a site with a model, then bind the site to it.

        Until then the site answers as before. What is embedded is stored as it goes: a further call
        continues after an interruption.

        Args:
            site: whose crops.
            model: where to.
            embed: of this model, images -> embedding or error, each.
            batch: crops per step.
            drop_unusable: delete sightings without a usable crop, at the end.
            back: this undoes the last move.

        Raises:
            SiteNotFoundError
            ReembedRunningError: the site moves already, or did while it was to be moved back.
            CropUnusableError: a sighting has no usable crop, and may not be dropped.
        """
        check_site_id(site)
        return self._moves.move(
            site, model, embed, batch=batch, drop_unusable=drop_unusable, back=back
        )

    # --- helpers

    async def _in_pool(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _oldest_request(self) -> datetime:
        return self._clock() - self._request_ttl

    async def _forget_requests(self) -> None:
        await asyncio.wrap_future(self._store.forget_requests(self._oldest_request()))

    @staticmethod
    def _mismatch(row: SiteRow, at_hand: ModelInfo) -> CallError:
        return model_mismatch(
            row.id,
            (row.reference, row.model),
            (at_hand.reference, at_hand.fingerprint),
        )

    async def _as_enrolled(self, site: str, answer: Answer) -> list[Enrolled | CallError]:
        ids = [item.id for item in answer.items if not isinstance(item, CallError)]
        found = await self._in_pool(lambda: self._store.sightings_by_id(site, ids))
        return [
            item
            if isinstance(item, CallError)
            else Enrolled(found[item.id], item.replaced)
            if item.id in found
            else sighting_not_found(site, item.id)
            for item in answer.items
        ]
