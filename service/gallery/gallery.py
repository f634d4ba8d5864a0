"""Galleries: the store and its index as one, always of one model.

The index follows the store: the writer's thread applies each change after its commit, in the order
of the commits. A site that was embedded with another model than the loaded one has no index, and
neither enrolls nor searches until `reembed` has run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import TypeVar

from service.errors import (
    CallError,
    ReembedRunningError,
    SightingNotFoundError,
)
from service.gallery.index import VectorIndex
from service.gallery.records import Answer, NewRow, Request, SiteRow, Stored, new_rows
from service.gallery.reembed import Embed, embed_kept_crops
from service.gallery.search import search
from service.gallery.statements import model_mismatch, sighting_not_found
from service.gallery.store import Store
from service.metrics import Metrics
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

    clock: the time, aware. new_id: a fresh sighting id. keep_crops: store the images.
    request_ttl: how long a request id is remembered. search_threads: searches at a time.
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
        self._indexes: dict[str, VectorIndex] = {}
        self._reembedding: set[str] = set()
        self._pool = ThreadPoolExecutor(search_threads, thread_name_prefix="resight-search")

    @property
    def model(self) -> ModelInfo:
        """The model that all vectors in the index are of."""
        return self._model

    def load(self) -> None:
        """Register the model and build the index of every site that uses it."""
        self._store.forget_requests(self._oldest_request()).result()
        self._store.register_model(self._model.fingerprint, self._model.reference)
        for site in self._store.sites():
            if site.model == self._model.fingerprint:
                self._build_index(site.id)
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

        def committed(_: None) -> None:
            self._set_index(site, VectorIndex(self._model.dimension))

        await asyncio.wrap_future(
            self._store.create_site(site, self._model.fingerprint, self._clock(), committed)
        )
        return await self.site(site)

    async def site(self, site: str) -> Site:
        """One site; `SiteNotFoundError` if there is none."""
        check_site_id(site)
        return self._as_site(await self._in_pool(lambda: self._store.site(site)))

    async def sites(self) -> list[Site]:
        """All sites, ordered by id."""
        return [self._as_site(row) for row in await self._in_pool(self._store.sites)]

    async def delete_site(self, site: str, *, force: bool) -> None:
        """Delete a site; `SiteNotEmptyError` if it has sightings and not `force`."""
        check_site_id(site)

        def committed(_: None) -> None:
            if self._indexes.pop(site, None) is not None:
                self._metrics.gallery_sightings.remove(site)

        await self._forget_requests()
        await asyncio.wrap_future(self._store.delete_site(site, force=force, then=committed))

    # --- sightings

    async def repeated(self, site: str, request: Request) -> list[Enrolled | CallError] | None:
        """The answer of an earlier `enroll` with this request id, None if there was none."""
        check_site_id(site)
        answer = await self._in_pool(
            lambda: self._store.repeated(site, self._model.fingerprint, request)
        )
        return None if answer is None else await self._as_enrolled(site, answer)

    async def enroll(
        self,
        site: str,
        items: Sequence[tuple[NewSighting, Vector] | CallError],
        request: Request | None = None,
    ) -> list[Enrolled | CallError]:
        """Store sightings durably, in one transaction; one of a known id is replaced.

        Args:
            site: where to.
            items: sightings with their embeddings; items that failed before pass through.
            request: of an earlier call that did the same: its answer is given.

        Returns:
            What became of each item.

        Raises:
            SiteNotFoundError, ModelMismatchError, RequestIdReusedError, StoreFullError
        """
        check_site_id(site)
        now = self._clock()
        rows = new_rows(items, now=now, new_id=self._new_id, keep_crops=self._keep_crops)

        def committed(answer: Answer) -> None:
            if not answer.repeated:
                stored = [row for row in rows if isinstance(row, NewRow)]
                numbered = zip(stored, answer.numbers, strict=True)
                self._indexes[site].upsert([row.entry(number) for row, number in numbered])
                self._count(site)

        answer = await asyncio.wrap_future(
            self._store.enroll(
                site,
                self._model.fingerprint,
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

        def committed(_: None) -> None:
            if site in self._indexes:
                self._indexes[site].delete(sighting)
                self._count(site)

        await self._forget_requests()
        await asyncio.wrap_future(self._store.delete_sighting(site, sighting, committed))

    # --- search

    async def require_ready(self, site: str) -> None:
        """Raise what a search would: `SiteNotFoundError` or `ModelMismatchError`."""
        check_site_id(site)
        if site not in self._indexes:
            row = await self._in_pool(lambda: self._store.site(site))
            raise self._mismatch(row)

    async def search(
        self,
        site: str,
        queries: Sequence[Vector | str],
        *,
        limit: int,
        wanted: SightingFilter = EVERY_SIGHTING,
    ) -> list[list[Match] | SightingNotFoundError]:
        """The sightings most similar to each query, best first, equal scores by id.

        Args:
            site: where to search.
            queries: embeddings, or ids of sightings (which are not among their own matches).
            limit: the most matches per query, >= 1.
            wanted: which sightings to consider.

        Raises:
            SiteNotFoundError, ModelMismatchError
        """
        await self.require_ready(site)
        return await self._in_pool(lambda: self._search(site, queries, limit, wanted))

    def _search(
        self, site: str, queries: Sequence[Vector | str], limit: int, wanted: SightingFilter
    ) -> list[list[Match] | SightingNotFoundError]:
        index = self._indexes.get(site)
        if index is None:  # deleted meanwhile
            raise self._mismatch(self._store.site(site))
        with self._metrics.stage("search"):
            return search(index, self._store, site, queries, limit, wanted)

    # --- another model

    async def reembed(
        self, site: str, embed: Embed, *, batch: int, drop_unusable: bool
    ) -> AsyncGenerator[ReembedProgress]:
        """Embed the kept crops of a site with the loaded model, then bind the site to it.

        What is embedded is stored as it goes: a further call continues after an interruption.

        Args:
            site: whose crops.
            embed: images -> embedding or error, each.
            batch: crops per step.
            drop_unusable: delete sightings without a usable crop, at the end.

        Raises:
            SiteNotFoundError, ReembedRunningError
            CropUnusableError: a sighting has no usable crop, and may not be dropped.
        """
        row = await self._in_pool(lambda: self._store.site(check_site_id(site)))
        if site in self._reembedding:
            raise ReembedRunningError(f"site {site} is being embedded again already; wait for it")
        self._reembedding.add(site)
        try:
            if row.model != self._model.fingerprint:
                steps = embed_kept_crops(
                    self._store,
                    row,
                    self._model.fingerprint,
                    embed,
                    batch=batch,
                    drop_unusable=drop_unusable,
                )
                async with aclosing(steps):
                    async for embedded, dropped in steps:
                        yield ReembedProgress(embedded, row.sightings, dropped, self._as_site(row))
                dropped = await asyncio.wrap_future(
                    self._store.switch_model(
                        site,
                        self._model.fingerprint,
                        drop_unusable=drop_unusable,
                        then=lambda _: self._build_index(site),
                    )
                )
            else:
                dropped = 0
            now = await self.site(site)
            yield ReembedProgress(now.sightings, now.sightings, dropped, now)
        finally:
            self._reembedding.discard(site)

    # --- helpers

    async def _in_pool(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _oldest_request(self) -> datetime:
        return self._clock() - self._request_ttl

    async def _forget_requests(self) -> None:
        await asyncio.wrap_future(self._store.forget_requests(self._oldest_request()))

    def _build_index(self, site: str) -> None:
        index = VectorIndex(self._model.dimension)
        for entries in self._store.index_entries(
            site, self._model.fingerprint, self._model.dimension
        ):
            index.upsert(entries)
        self._set_index(site, index)

    def _set_index(self, site: str, index: VectorIndex) -> None:
        self._indexes[site] = index
        self._count(site)

    def _count(self, site: str) -> None:
        self._metrics.gallery_sightings.labels(site).set(len(self._indexes[site]))

    def _as_site(self, row: SiteRow) -> Site:
        ready = row.model == self._model.fingerprint
        return Site(row.id, row.reference, row.sightings, row.created, ready)

    def _mismatch(self, row: SiteRow) -> CallError:
        return model_mismatch(
            row.id,
            (row.reference, row.model),
            (self._model.reference, self._model.fingerprint),
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
