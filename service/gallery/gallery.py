"""Galleries: the store and its index as one, each site with exactly one model.

The index follows the store: the writer's thread applies each change after its commit, in the order
of the commits. A site whose model is not loaded has no index: it neither enrolls nor searches until
a rollover to a loaded model.

Callers say which model made a vector, by its fingerprint. If the site uses another one, e.g. after
a rollover, the vector is refused with `ModelMismatchError`: embed again, with the model that
`require_ready` names.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from service.errors import CallError, SightingNotFoundError
from service.gallery.known_values import KnownValues, missing
from service.gallery.live_sites import LiveSites
from service.gallery.search import search
from service.operations.metrics import Metrics
from service.store.records import (
    EnrollOutcome,
    IdempotencyKey,
    NewRow,
    SiteRow,
    Stored,
    new_rows,
)
from service.store.statements import model_mismatch, sighting_not_found
from service.store.store import Store
from service.types import (
    ALL_DETAIL,
    EVERY_SIGHTING,
    FILTER_LISTS,
    CameraSummary,
    Detail,
    Enrolled,
    Match,
    ModelInfo,
    NewSighting,
    Sighting,
    SightingFilter,
    Site,
    UnknownValues,
    Vector,
    check_sighting_id,
    check_site_id,
)

log = logging.getLogger("resight.gallery")

_READERS = 4
"""Short reads at a time."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GallerySettings:
    """What an operator can choose.

    keep_crops: store the images. request_ttl: how long a request id is remembered.
    search_threads: searches at a time, >= 1.
    """

    keep_crops: bool
    request_ttl: timedelta
    search_threads: int


class Gallery:
    """All galleries of a server.

    model: the server's own, of new sites. clock: the time, aware. new_id: a fresh sighting id.
    """

    def __init__(
        self,
        store: Store,
        sites: LiveSites,
        model: ModelInfo,
        settings: GallerySettings,
        *,
        clock: Callable[[], datetime],
        new_id: Callable[[], str],
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._sites = sites
        self._model = model
        self._settings = settings
        self._clock = clock
        self._new_id = new_id
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(
            settings.search_threads, thread_name_prefix="resight-search"
        )
        # Short reads: they do not wait for searches and lists.
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="resight-read")

    @property
    def model(self) -> ModelInfo:
        """The server's own model."""
        return self._model

    def load(self, others: Sequence[ModelInfo] = ()) -> None:
        """Register the loaded models and build the index of every site that uses one of them.

        others: loaded models besides the server's own.

        Raises:
            DamagedRowError: of a stored sighting or its vector, also where that is absent.
        """
        while self._store.forget_requests(self._oldest_request()).result():
            pass
        loaded = {model.fingerprint: model for model in (*others, self._model)}
        for model in loaded.values():
            self._store.register_model(model.fingerprint, model.reference)
        for site in self._store.sites():
            if site.model in loaded:
                self._sites.build(site.id, loaded[site.model])
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
        """Stop the search threads; the owner of the store closes it."""
        self._pool.shutdown(wait=True)
        self._readers.shutdown(wait=True)

    # --- sites

    async def create_site(self, site: str) -> Site:
        """Make an empty site; `SiteExistsError` if the name is taken."""
        check_site_id(site)

        await asyncio.wrap_future(
            self._store.create_site(
                site,
                self._model.fingerprint,
                self._clock(),
                lambda _: self._sites.add_empty(site, self._model),
            )
        )
        return await self.site(site)

    async def site(self, site: str) -> Site:
        """One site; `SiteNotFoundError` if there is none."""
        check_site_id(site)
        return self._sites.as_site(await self._read(lambda: self._store.site(site)))

    async def sites(self) -> list[Site]:
        """All sites, ordered by id."""
        return [self._sites.as_site(row) for row in await self._read(self._store.sites)]

    async def delete_site(self, site: str, *, force: bool) -> None:
        """Delete a site; `SiteNotEmptyError` if it has sightings and not `force`."""
        check_site_id(site)

        await self._forget_requests()
        await asyncio.wrap_future(
            self._store.delete_site(site, force=force, then=lambda _: self._sites.remove(site))
        )

    # --- sightings

    async def earlier_outcome(
        self, site: str, key: IdempotencyKey, room: Callable[[], Awaitable[int]] | None = None
    ) -> list[Enrolled | CallError] | None:
        """The result of an earlier `enroll` with this request id, None if there was none.

        room: is asked before sightings are read, how many bytes of attributes they may have.
        """
        self._sites.check_enrollment(site)
        model = (await self.require_ready(site)).fingerprint
        outcome = await self._read(
            lambda: self._store.earlier_outcome(site, model, key, self._oldest_request())
        )
        if outcome is None:
            return None
        return await self._as_enrolled(site, outcome, sys.maxsize if room is None else await room())

    async def enroll(
        self,
        site: str,
        model: str,
        items: Sequence[tuple[NewSighting, Vector] | CallError],
        key: IdempotencyKey | None = None,
        *,
        max_bytes: int = sys.maxsize,
    ) -> list[Enrolled | CallError]:
        """Store sightings durably, in one transaction; one of a known id is replaced.

        Args:
            site: the site's id.
            model: fingerprint of the model that made the embeddings.
            items: sightings with their embeddings; items that failed before pass through.
            key: if an earlier call had the same one, nothing is stored, and its result is returned.
            max_bytes: of the attributes of such a result; further ones are left out.

        Returns:
            The result of each item.

        Raises:
            SiteNotFoundError, ModelMismatchError, RequestIdReusedError, StoreFullError
            EnrollmentPausedError: a rollover of the site is about to end.
        """
        check_site_id(site)
        self._sites.check_enrollment(site)
        now = self._clock()
        rows = new_rows(items, now=now, new_id=self._new_id, keep_crops=self._settings.keep_crops)

        def committed(outcome: EnrollOutcome) -> None:
            if not outcome.repeated:
                stored = [row for row in rows if isinstance(row, NewRow)]
                numbered = zip(stored, outcome.numbers, strict=True)
                self._sites.upsert(site, [row.entry(number) for row, number in numbered])

        outcome = await asyncio.wrap_future(
            self._store.enroll(
                site,
                model,
                rows,
                key=key,
                now=now,
                request_ttl=self._settings.request_ttl,
                then=committed,
            )
        )
        if outcome.repeated:
            return await self._as_enrolled(site, outcome, max_bytes)
        replaced = {i.id for i in outcome.items if isinstance(i, Stored) and i.replaced}
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
        return await self._read(lambda: self._store.sighting(site, sighting))

    async def crop(self, site: str, sighting: str) -> bytes | None:
        """The kept image of a sighting, None if there is none."""
        return await self._read(lambda: self._store.crop(site, sighting))

    async def list_sightings(
        self,
        site: str,
        wanted: SightingFilter,
        *,
        after: str,
        limit: int,
        detail: Detail = ALL_DETAIL,
    ) -> list[Sighting]:
        """The first `limit` sightings with an id above `after`, ordered by id.

        Fewer where they have more attributes than `detail` allows.
        """
        check_site_id(site)
        return await self._in_pool(
            lambda: self._store.list_sightings(
                site, wanted, after=after, limit=limit, detail=detail
            )
        )

    async def cameras(self, site: str) -> list[CameraSummary]:
        """What a site has of each camera, ordered by name."""
        check_site_id(site)

        def work() -> list[CameraSummary]:
            live = self._sites.get(site)
            return self._store.cameras(site) if live is None else live.index.cameras()

        return await self._read(work)

    async def unknown_values(self, site: str, wanted: SightingFilter) -> list[UnknownValues]:
        """Values of a filter that no sighting of a site has."""
        check_site_id(site)
        fields = {field for name, field in FILTER_LISTS.items() if getattr(wanted, name)}
        if not fields:
            return []

        def work() -> list[UnknownValues]:
            live = self._sites.get(site)
            if live is not None:
                found = live.index.missing(wanted)
            else:
                known = {field: KnownValues(self._store.values(site, field)) for field in fields}
                found = missing(wanted, known)
            return [each.told() for each in found]

        return await self._read(work)

    async def delete_sighting(self, site: str, sighting: str) -> None:
        """Delete one sighting; `SightingNotFoundError` if there is none."""
        check_site_id(site)
        check_sighting_id(sighting)

        await self._forget_requests()
        await asyncio.wrap_future(
            self._store.delete_sighting(
                site, sighting, lambda _: self._sites.delete(site, sighting)
            )
        )

    # --- search

    async def require_ready(self, site: str) -> ModelInfo:
        """The model that a site uses.

        Raises:
            SiteNotFoundError
            ModelMismatchError: that model is not loaded.
            StoreBusyError: its index could not follow the database, and cannot be built now.
        """
        check_site_id(site)
        if self._sites.is_behind(site):
            await asyncio.wrap_future(self._store.in_writer(lambda: self._sites.rebuild(site)))
        live = self._sites.get(site)
        if live is None:
            row = await self._read(lambda: self._store.site(site))
            raise self._mismatch(row, self._model)
        return live.model

    async def search(
        self,
        site: str,
        model: str,
        queries: Sequence[Vector | str],
        *,
        limit: int,
        wanted: SightingFilter = EVERY_SIGHTING,
        detail: Detail = ALL_DETAIL,
        on_unknown: Callable[[Sequence[UnknownValues]], None] = lambda _: None,
    ) -> list[list[Match] | SightingNotFoundError]:
        """The sightings most similar to each query, best first, equal scores by id.

        Args:
            site: the site's id.
            model: fingerprint of the model that made the embeddings.
            queries: embeddings, or ids of sightings (which are not among their own matches).
            limit: most matches per query, >= 1.
            wanted: which sightings to consider.
            detail: what to read of the matches.
            on_unknown: is told, in another thread, the values of `wanted` that no sighting has.

        Raises:
            SiteNotFoundError, ModelMismatchError
            BadLimitError: the matches have more attributes than `detail` allows.
        """
        await self.require_ready(site)
        return await self._in_pool(
            lambda: self._search(site, model, queries, limit, wanted, detail, on_unknown)
        )

    def _search(
        self,
        site: str,
        model: str,
        queries: Sequence[Vector | str],
        limit: int,
        wanted: SightingFilter,
        detail: Detail,
        on_unknown: Callable[[Sequence[UnknownValues]], None],
    ) -> list[list[Match] | SightingNotFoundError]:
        # Read once: a rollover that ends from here on does not touch this index.
        live = self._sites.get(site)
        if live is None:  # deleted meanwhile, or behind
            self._sites.refuse_behind(site)
            raise self._mismatch(self._store.site(site), self._model)
        if live.model.fingerprint != model:
            raise self._mismatch(self._store.site(site), live.model)
        with self._metrics.stage("search"):
            found = search(live.index, self._store, site, queries, limit, wanted, detail)
        # After the search: a value is not told that is known by now.
        on_unknown([each.told() for each in live.index.missing(wanted)])
        return found

    # --- helpers

    async def _in_pool(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def _read(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    def _oldest_request(self) -> datetime:
        return self._clock() - self._settings.request_ttl

    async def _forget_requests(self) -> None:
        await asyncio.wrap_future(self._store.forget_requests(self._oldest_request()))

    @staticmethod
    def _mismatch(row: SiteRow, running: ModelInfo) -> CallError:
        return model_mismatch(
            row.id,
            (row.reference, row.model),
            (running.reference, running.fingerprint),
        )

    async def _as_enrolled(
        self, site: str, outcome: EnrollOutcome, max_bytes: int
    ) -> list[Enrolled | CallError]:
        ids = [item.id for item in outcome.items if not isinstance(item, CallError)]
        found = await self._read(lambda: self._store.sightings_by_id(site, ids, max_bytes))
        return [
            item
            if isinstance(item, CallError)
            else Enrolled(found[item.id], item.replaced)
            if item.id in found
            else sighting_not_found(site, item.id)
            for item in outcome.items
        ]
