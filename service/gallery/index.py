"""Exact search in one gallery: a cache of the store in memory, which can always be rebuilt.

faiss computes all inner products of the rows that pass the filter; the best few are then scored
again in double precision, so that an answer does not depend on the order of the rows or on how
many queries came together. Equal scores are ordered by id.

Row: position in faiss, never used twice between two compactions. An id that is enrolled again gets
a new row, and its old one is marked dead: faiss would keep both, and removing one is linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from service.gallery.rwlock import ReadWriteLock
from service.store.records import IndexEntry
from service.store.times import to_us
from service.types import SightingFilter, Vector

_SCORE_TOLERANCE = 1e-5
"""More than single and double precision can differ in an inner product of unit vectors."""

_EXTRA = 8
"""Candidates beyond the limit, so that few searches have to be repeated for a tie."""

_COMPACT_ABOVE = 1024
_COMPACT_SHARE = 0.25
"""Dead rows are removed when there are more than either says."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A sighting's id and number (see `IndexEntry`), and its cosine similarity to the query."""

    number: int
    id: str
    score: float


class _Codes:
    """Numbers for the values of one text column. The empty text is 0."""

    def __init__(self) -> None:
        self._codes = {"": 0}

    def add(self, value: str) -> int:
        return self._codes.setdefault(value, len(self._codes))

    def known(self, values: Sequence[str]) -> NDArray[np.int32]:
        return np.array([self._codes[v] for v in values if v in self._codes], np.int32)


_COLUMNS = np.dtype(
    [
        ("number", np.int64),
        ("camera", np.int32),
        ("track", np.int32),
        ("person", np.int32),
        ("time_us", np.int64),
        ("alive", np.bool_),
    ]
)


class VectorIndex:
    """The embeddings of one model in one site. Safe to use from several threads."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._lock = ReadWriteLock()
        self._vectors = faiss.IndexFlatIP(dimension)
        self._columns = np.zeros(0, _COLUMNS)
        self._ids: list[str] = []
        self._row_of: dict[str, int] = {}
        self._cameras, self._tracks, self._persons = _Codes(), _Codes(), _Codes()

    def __len__(self) -> int:
        return len(self._row_of)

    @property
    def rows(self) -> int:
        """Rows in memory, dead ones included."""
        return len(self._ids)

    def upsert(self, entries: Sequence[IndexEntry]) -> None:
        """Add sightings; one of a known id takes its place."""
        if not entries:
            return
        matrix = np.stack([entry.vector for entry in entries]).astype(np.float32)
        if matrix.shape[1] != self._dimension:
            raise ValueError(f"vectors of {matrix.shape[1]} numbers, not {self._dimension}")
        with self._lock.writing():
            start = len(self._ids)
            self._reserve(start + len(entries))
            self._vectors.add(matrix)
            for row, entry in enumerate(entries, start):
                self._kill(entry.id)
                self._columns[row] = (
                    entry.number,
                    self._cameras.add(entry.camera),
                    self._tracks.add(entry.track),
                    self._persons.add(entry.person),
                    entry.time_us,
                    True,
                )
                self._ids.append(entry.id)
                self._row_of[entry.id] = row
            self._compact_if_worthwhile()

    def delete(self, sighting: str) -> None:
        """Remove a sighting; an unknown id is ignored."""
        with self._lock.writing():
            self._kill(sighting)
            self._compact_if_worthwhile()

    def vector(self, sighting: str) -> Vector | None:
        """The embedding of a sighting, None if it is unknown."""
        with self._lock.reading():
            row = self._row_of.get(sighting)
            if row is None:
                return None
            vector: Vector = self._vectors.reconstruct(row)
            return vector

    def search(
        self,
        queries: NDArray[np.float32],
        limit: int,
        wanted: SightingFilter,
        exclude: Sequence[str | None],
    ) -> list[list[Hit]]:
        """The most similar sightings that pass the filter.

        Args:
            queries: (Q, D) float32 of unit length.
            limit: the most hits per query, >= 1.
            wanted: which sightings to consider.
            exclude: per query, the id of a sighting not to return.

        Returns:
            Q lists, best first, equal scores by id.
        """
        with self._lock.reading():
            allowed = self._allowed(wanted)
            count = int(allowed.sum())
            if count == 0:
                return [[] for _ in queries]
            rows = self._candidates(queries, limit + 1, allowed, count)
            return [
                self._best(query, found, limit, left_out)
                for query, found, left_out in zip(queries, rows, exclude, strict=True)
            ]

    def _allowed(self, wanted: SightingFilter) -> NDArray[np.bool_]:
        columns = self._columns[: len(self._ids)]
        mask = columns["alive"].copy()
        if wanted.cameras:
            mask &= np.isin(columns["camera"], self._cameras.known(wanted.cameras))
        if wanted.exclude_cameras:
            mask &= ~np.isin(columns["camera"], self._cameras.known(wanted.exclude_cameras))
        if wanted.persons:
            mask &= np.isin(columns["person"], self._persons.known(wanted.persons))
        if wanted.exclude_tracks:
            mask &= ~np.isin(columns["track"], self._tracks.known(wanted.exclude_tracks))
        if wanted.start is not None:
            mask &= columns["time_us"] >= to_us(wanted.start)
        if wanted.end is not None:
            mask &= columns["time_us"] < to_us(wanted.end)
        return mask

    def _candidates(
        self, queries: NDArray[np.float32], limit: int, allowed: NDArray[np.bool_], count: int
    ) -> NDArray[np.int64]:
        """(Q, >= min(limit, count)) rows that include the best `limit` of each query:
        either all allowed rows, or enough that those beyond the last place score clearly less."""
        parameters = None
        if count < len(allowed):
            bitmap = np.packbits(allowed, bitorder="little")
            parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bitmap))
        fetch = min(limit + _EXTRA, count)
        while True:
            scores, rows = self._vectors.search(queries, fetch, params=parameters)
            last = min(limit, fetch) - 1
            tied = scores[:, -1] >= scores[:, last] - _SCORE_TOLERANCE
            if fetch == count or not tied.any():
                found: NDArray[np.int64] = rows
                return found
            fetch = min(fetch * 4, count)

    def _best(
        self, query: NDArray[np.float32], rows: NDArray[np.int64], limit: int, left_out: str | None
    ) -> list[Hit]:
        vectors = self._vectors.reconstruct_batch(rows)
        exact = vectors.astype(np.float64) @ query.astype(np.float64)
        scores = np.clip(exact, -1, 1).astype(np.float32)
        hits = [
            Hit(int(self._columns["number"][row]), self._ids[row], float(score))
            for row, score in zip(rows, scores, strict=True)
            if self._ids[row] != left_out
        ]
        hits.sort(key=lambda hit: (-hit.score, hit.id))
        return hits[:limit]

    def _reserve(self, rows: int) -> None:
        if rows > len(self._columns):
            grown = np.zeros(max(rows, 2 * len(self._columns), 64), _COLUMNS)
            grown[: len(self._columns)] = self._columns
            self._columns = grown

    def _kill(self, sighting: str) -> None:
        row = self._row_of.pop(sighting, None)
        if row is not None:
            self._columns["alive"][row] = False

    def _compact_if_worthwhile(self) -> None:
        rows = len(self._ids)
        dead = rows - len(self._row_of)
        if dead <= max(_COMPACT_ABOVE, _COMPACT_SHARE * rows):
            return
        kept = np.flatnonzero(self._columns["alive"][:rows])
        fresh = faiss.IndexFlatIP(self._dimension)
        if len(kept):
            fresh.add(self._vectors.reconstruct_batch(kept))
        self._vectors = fresh
        self._columns = self._columns[kept]
        self._ids = [self._ids[row] for row in kept]
        self._row_of = {sighting: row for row, sighting in enumerate(self._ids)}
