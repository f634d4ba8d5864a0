"""The index of a site's next model, built beside the writer while the site changes."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from service.gallery.index import VectorIndex
from service.store.records import Checked
from service.store.store import Store
from service.types import ModelInfo


class NextIndex:
    """What a site is to answer with.

    `follow` reads the store for as long as the site is large, in a thread of the caller's. From its
    first call on, the index is told of each change after its commit, so that what is left for the
    writer's thread at the end is what changed since the last `follow`.

    number: of the site in the store.
    """

    def __init__(self, store: Store, site: str, number: int, model: ModelInfo) -> None:
        self.site = site
        self.model = model
        self.index = VectorIndex(model.dimension)
        self.checked = Checked(number)
        self._store = store
        self._lock = threading.Lock()
        self._changed: set[str] | None = None
        self._given_up = False

    def change(self, ids: Iterable[str]) -> None:
        """These sightings were stored or deleted; called after the commit."""
        with self._lock:
            if self._changed is not None:
                self._changed.update(ids)

    def give_up(self) -> None:
        """Nobody needs it any more; a `follow` that is reading ends soon."""
        self._given_up = True

    def follow(self) -> None:
        """Build the index, or bring it up to date.

        Raises:
            SiteNotFoundError: the site was deleted.
            DamagedRowError: of a stored sighting or its vector.
        """
        if self._changed is None:
            self._changed = set()  # before the store is read: no change is missed
            self._read(None)
        self.catch_up()
        self.checked = self._store.check_vectors(self.site, self.model.fingerprint, self.checked)

    def catch_up(self) -> None:
        """Read again what has changed since the last time."""
        with self._lock:
            changed, self._changed = self._changed or set(), set()
        if changed:
            for gone in changed - self._read(sorted(changed)):
                self.index.delete(gone)

    def _read(self, ids: list[str] | None) -> set[str]:
        """Index the vectors of these sightings, or of all; returns the ids that have one.

        Those that have none yet are read again later.
        """
        found: set[str] = set()
        for entries, lacking in self._store.embedded_entries(
            self.site, self.model.fingerprint, self.model.dimension, ids
        ):
            if self._given_up:
                break
            self.index.upsert(entries)
            self.change(lacking)
            if ids is not None:
                found.update(entry.id for entry in entries)
        return found
