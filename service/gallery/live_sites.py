"""Live sites: those whose model is loaded, with the index of their vectors."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from service.errors import DamagedRowError, EnrollmentPausedError, StoreBusyError
from service.gallery.index import VectorIndex
from service.gallery.next_index import NextIndex
from service.operations.metrics import Metrics
from service.store.records import IndexEntry, SiteRow
from service.store.store import Store
from service.types import ModelInfo, Site

log = logging.getLogger("resight.gallery")

_REBUILD_RETRY_S = 1.0
"""Seconds until a caller should try again where the index of a site cannot be built."""

_PAUSE_RETRY_S = 0.2
"""Seconds until a caller should try again while enrollment is paused."""


@dataclass(frozen=True, slots=True)
class LiveSite:
    """The model that a site answers with, and the index of its vectors."""

    model: ModelInfo
    index: VectorIndex


class LiveSites:
    """Live sites by id.

    Changed at the start, and then only by the writer's thread, in the order of the commits; read
    from any thread. A reader takes one `LiveSite` and uses it to its end: a site that gets another
    model gets another `LiveSite`, and the one before does not change any more. The index of the
    next one is built beside the writer, which reads what changed last and lets the site use it.

    An index that could not follow the store, e.g. as memory was short, is given up: it would give
    wrong answers. Its site is behind, and not live, until `rebuild` has read the store.
    """

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._sites: dict[str, LiveSite] = {}
        self._behind: dict[str, ModelInfo] = {}
        self._next: dict[str, NextIndex] = {}
        self._paused: set[str] = set()

    def get(self, site: str) -> LiveSite | None:
        """A live site, None if it is not live."""
        return self._sites.get(site)

    def models(self) -> set[str]:
        """Fingerprints of the models that sites answer with."""
        used = [live.model for live in list(self._sites.values())]
        return {model.fingerprint for model in (*used, *list(self._behind.values()))}

    def is_behind(self, site: str) -> bool:
        """Whether a site is not live because its index has to be built anew."""
        return site in self._behind

    def rebuild(self, site: str) -> None:
        """Build the index of a site that is behind; called by the writer's thread.

        Raises:
            StoreBusyError: it cannot be built now.
        """
        model = self._behind.get(site)
        if model is None:
            return
        try:
            self.build(site, model)
        except Exception as error:
            kind = type(error).__name__
            log.warning("the index of site %s cannot be built: %s: %s", site, kind, error)
            raise _behind(site) from error
        log.info("the index of site %s is built anew", site)

    def refuse_behind(self, site: str) -> None:
        """Raise `StoreBusyError` for a site that is behind."""
        if site in self._behind:
            raise _behind(site)

    def as_site(self, row: SiteRow) -> Site:
        """A site as a caller sees it."""
        return Site(row.id, row.reference, row.sightings, row.created, row.id in self._sites)

    def add_empty(self, site: str, model: ModelInfo) -> None:
        """Add a new site."""
        self._set(site, LiveSite(model, VectorIndex(model.dimension)))

    def build(self, site: str, model: ModelInfo) -> None:
        """Let a site answer with a model, from the vectors of it in the store.

        Raises:
            DamagedRowError: of a stored sighting or its vector, also where that is absent.
        """
        index = VectorIndex(model.dimension)
        for entries in self._store.index_entries(site, model.fingerprint, model.dimension):
            index.upsert(entries)
        self._set(site, LiveSite(model, index))

    def prepare(self, site: str, model: ModelInfo) -> NextIndex:
        """The index of a site's next model, still empty; waits for the writer.

        Raises:
            SiteNotFoundError
        """
        number = self._store.begin_rollover(site, model.fingerprint, model.reference)
        return NextIndex(self._store, site, number, model)

    @contextmanager
    def preparing(self, following: NextIndex) -> Iterator[None]:
        """Within this block an index is told of the changes of its site; one per site."""
        self._next[following.site] = following
        try:
            yield
        finally:
            del self._next[following.site]
            following.give_up()

    def use(self, following: NextIndex) -> None:
        """Let a site answer with its next model."""
        with self._or_behind(following.site, following.model):
            following.catch_up()
            self._set(following.site, LiveSite(following.model, following.index))

    def remove(self, site: str) -> None:
        """Remove a deleted site."""
        behind = self._behind.pop(site, None)
        if self._sites.pop(site, None) is not None or behind is not None:
            self._metrics.gallery_sightings.remove(site)

    def upsert(self, site: str, entries: Sequence[IndexEntry]) -> None:
        """Index stored sightings."""
        self._tell(site, [entry.id for entry in entries])
        if site not in self._behind:
            live = self._sites[site]
            with self._or_behind(site, live.model):
                live.index.upsert(entries)
                self._count(site)

    def delete(self, site: str, sighting: str) -> None:
        """Remove a deleted sighting."""
        self._tell(site, [sighting])
        live = self._sites.get(site)
        if live is not None:
            with self._or_behind(site, live.model):
                live.index.delete(sighting)
                self._count(site)

    @contextmanager
    def pause_enrollment(self, site: str) -> Iterator[None]:
        """Refuse enrollment in a site within this block; belongs to the event loop."""
        self._paused.add(site)
        try:
            yield
        finally:
            self._paused.discard(site)

    def check_enrollment(self, site: str) -> None:
        """Raise `EnrollmentPausedError` while enrollment in a site is paused."""
        if site in self._paused:
            raise EnrollmentPausedError(
                f"site {site} is about to use another model; try again in {_PAUSE_RETRY_S} s",
                retry_after_s=_PAUSE_RETRY_S,
            )

    @contextmanager
    def _or_behind(self, site: str, model: ModelInfo) -> Iterator[None]:
        """Where the block fails, the site is behind; not where the store is damaged, though."""
        try:
            yield
        except DamagedRowError:
            raise
        except Exception:
            log.exception("the index of site %s could not follow the database: built anew", site)
            self._behind[site] = model
            self._sites.pop(site, None)
            self._metrics.gallery_sightings.labels(site).set(0)

    def _tell(self, site: str, changed: Sequence[str]) -> None:
        following = self._next.get(site)
        if following is not None:
            following.change(changed)

    def _set(self, site: str, live: LiveSite) -> None:
        self._sites[site] = live
        self._behind.pop(site, None)
        self._count(site)

    def _count(self, site: str) -> None:
        self._metrics.gallery_sightings.labels(site).set(len(self._sites[site].index))


def _behind(site: str) -> StoreBusyError:
    return StoreBusyError(
        f"the index of site {site} could not follow the database, and is not built anew yet; try "
        f"again in {_REBUILD_RETRY_S:g} s",
        retry_after_s=_REBUILD_RETRY_S,
    )
