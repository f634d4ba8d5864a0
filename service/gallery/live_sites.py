"""Sites that answer: the model of each, and the index of its vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.gallery.index import IndexEntry, VectorIndex
from service.operations.metrics import Metrics
from service.store.records import SiteRow
from service.store.store import Store
from service.types import ModelInfo, Site


@dataclass(frozen=True, slots=True)
class Active:
    """What a site answers with."""

    model: ModelInfo
    index: VectorIndex


class ActiveSites:
    """Sites of loaded models, by id.

    Changed before the server serves, and then by the writer's thread only, in the order of the
    commits; read from any thread. Who reads takes one look: a site that gets another model gets
    another `Active`, and nothing changes in the one before any more.
    """

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._sites: dict[str, Active] = {}

    def get(self, site: str) -> Active | None:
        """What a site answers with, None if it does not."""
        return self._sites.get(site)

    def models(self) -> set[str]:
        """Fingerprints of the models that sites answer with."""
        return {active.model.fingerprint for active in list(self._sites.values())}

    def as_site(self, row: SiteRow) -> Site:
        """A site as a caller sees it."""
        return Site(row.id, row.reference, row.sightings, row.created, row.id in self._sites)

    def add_empty(self, site: str, model: ModelInfo) -> None:
        """A new site."""
        self._set(site, Active(model, VectorIndex(model.dimension)))

    def build(self, site: str, model: ModelInfo) -> None:
        """Answer with a model from here on, from the vectors that the store has of it."""
        index = VectorIndex(model.dimension)
        for entries in self._store.index_entries(site, model.fingerprint, model.dimension):
            index.upsert(entries)
        self._set(site, Active(model, index))

    def remove(self, site: str) -> None:
        """A site that is no more."""
        if self._sites.pop(site, None) is not None:
            self._metrics.gallery_sightings.remove(site)

    def upsert(self, site: str, entries: Sequence[IndexEntry]) -> None:
        """Sightings that were stored."""
        self._sites[site].index.upsert(entries)
        self._count(site)

    def delete(self, site: str, sighting: str) -> None:
        """A sighting that was deleted."""
        if site in self._sites:
            self._sites[site].index.delete(sighting)
            self._count(site)

    def _set(self, site: str, active: Active) -> None:
        self._sites[site] = active
        self._count(site)

    def _count(self, site: str) -> None:
        self._metrics.gallery_sightings.labels(site).set(len(self._sites[site].index))
