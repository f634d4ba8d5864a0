"""Live sites: those whose model is loaded, with the index of their vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from service.errors import EnrollmentPausedError
from service.gallery.index import VectorIndex
from service.gallery.next_index import NextIndex
from service.operations.metrics import Metrics
from service.store.records import IndexEntry, SiteRow
from service.store.store import Store
from service.types import ModelInfo, Site

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
    """

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._sites: dict[str, LiveSite] = {}
        self._next: dict[str, NextIndex] = {}
        self._paused: set[str] = set()

    def get(self, site: str) -> LiveSite | None:
        """A live site, None if it is not live."""
        return self._sites.get(site)

    def models(self) -> set[str]:
        """Fingerprints of the models that sites answer with."""
        return {live.model.fingerprint for live in list(self._sites.values())}

    def as_site(self, row: SiteRow) -> Site:
        """A site as a caller sees it."""
        return Site(row.id, row.reference, row.sightings, row.created, row.id in self._sites)

    def add_empty(self, site: str, model: ModelInfo) -> None:
        """Add a new site."""
        self._set(site, LiveSite(model, VectorIndex(model.dimension)))

    def build(self, site: str, model: ModelInfo) -> None:
        """Let a site answer with a model, from the vectors of it in the store.

        Raises:
            StoreUnusableError: a stored vector is damaged or absent.
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
        following.catch_up()
        self._set(following.site, LiveSite(following.model, following.index))

    def remove(self, site: str) -> None:
        """Remove a deleted site."""
        if self._sites.pop(site, None) is not None:
            self._metrics.gallery_sightings.remove(site)

    def upsert(self, site: str, entries: Sequence[IndexEntry]) -> None:
        """Index stored sightings."""
        self._tell(site, [entry.id for entry in entries])
        self._sites[site].index.upsert(entries)
        self._count(site)

    def delete(self, site: str, sighting: str) -> None:
        """Remove a deleted sighting."""
        self._tell(site, [sighting])
        if site in self._sites:
            self._sites[site].index.delete(sighting)
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

    def _tell(self, site: str, changed: Sequence[str]) -> None:
        following = self._next.get(site)
        if following is not None:
            following.change(changed)

    def _set(self, site: str, live: LiveSite) -> None:
        self._sites[site] = live
        self._count(site)

    def _count(self, site: str) -> None:
        self._metrics.gallery_sightings.labels(site).set(len(self._sites[site].index))
