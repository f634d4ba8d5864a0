"""Exact search in one gallery: a cache of the store in memory, which can always be rebuilt.

faiss computes all inner products of the rows that pass the filter; the best few are then scored
again in double precision, so that an answer does not depend on the order of the rows or on how
many queries came together. Equal scores are ordered by id.

Row: position in faiss. An id that is enrolled again keeps its row. The row of a deleted one is
taken by the last. So a write copies what it changes, and not the site: other writes wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.gallery.known_values import KnownValues, Missing, missing
from service.gallery.rwlock import ReadWriteLock
from service.gallery.vectors import Vectors
from service.store.records import IndexEntry
from service.store.times import from_us, to_us
from service.types import FILTER_LISTS, CameraSummary, SightingFilter, Vector

_SCORE_TOLERANCE = 1e-5
"""More than single and double precision can differ in an inner product of unit vectors."""

_EXTRA = 8
"""Candidates beyond the limit, so that few searches have to be repeated for a tie."""

_SPARE_ROWS = 1024
_SPARE_TIMES = 4
"""Memory is given back where there is room for more rows than these, and for so many times as many
as are used: what is copied then is a small part of what was deleted."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A sighting's id and number (see `IndexEntry`), and its cosine similarity to the query."""

    number: int
    id: str
    score: float


_TEXTS = ("camera", "track", "person")

_COLUMNS = np.dtype(
    [
        ("number", np.int64),
        ("camera", np.int32),
        ("track", np.int32),
        ("person", np.int32),
        ("time_us", np.int64),
    ]
)


class VectorIndex:
    """The embeddings of one model in one site. Safe to use from several threads."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._lock = ReadWriteLock()
        self._vectors = Vectors(dimension)
        self._columns = np.zeros(0, _COLUMNS)
        self._ids: list[str] = []
        self._row_of: dict[str, int] = {}
        self._values = {name: KnownValues() for name in _TEXTS}

    def __len__(self) -> int:
        return len(self._row_of)

    @property
    def room(self) -> int:
        """Rows that there is memory for."""
        return len(self._columns)

    def upsert(self, entries: Sequence[IndexEntry]) -> None:
        """Add sightings; one of a known id takes its place."""
        if not entries:
            return
        matrix = np.stack([entry.vector for entry in entries]).astype(np.float32)
        if matrix.shape[1] != self._dimension:
            raise ValueError(f"vectors of {matrix.shape[1]} numbers, not {self._dimension}")
        with self._lock.writing():
            before = len(self._ids)
            added = len({entry.id for entry in entries} - self._row_of.keys())
            self._reserve(before + added)
            self._vectors.resize(before + added)
            rows = np.array([self._place(entry.id) for entry in entries])
            self._vectors.write(rows, matrix)
            for row, entry in zip(rows, entries, strict=True):
                if row < before:
                    self._forget_values(row)
                before = max(before, row + 1)
                self._columns[row] = (
                    entry.number,
                    self._values["camera"].add(entry.camera),
                    self._values["track"].add(entry.track),
                    self._values["person"].add(entry.person),
                    entry.time_us,
                )

    def delete(self, sighting: str) -> None:
        """Remove a sighting; an unknown id is ignored."""
        with self._lock.writing():
            row = self._row_of.pop(sighting, None)
            if row is None:
                return
            self._forget_values(row)
            last = len(self._ids) - 1
            moved = self._ids.pop()
            if row != last:
                self._vectors.write(np.array([row]), self._vectors.read(np.array([last])))
                self._columns[row] = self._columns[last]
                self._ids[row] = moved
                self._row_of[moved] = row
            self._vectors.resize(last)
            if len(self._columns) > max(_SPARE_ROWS, _SPARE_TIMES * last):
                self._columns = self._columns[:last].copy()
                self._vectors.give_back()

    def vector(self, sighting: str) -> Vector | None:
        """The embedding of a sighting, None if it is unknown."""
        with self._lock.reading():
            row = self._row_of.get(sighting)
            if row is None:
                return None
            vector: Vector = self._vectors.read(np.array([row]))[0]
            return vector

    def missing(self, wanted: SightingFilter) -> list[Missing]:
        """The lists of a filter with values that no sighting has."""
        if not any(getattr(wanted, field) for field in FILTER_LISTS):
            return []
        with self._lock.reading():
            return missing(wanted, self._values)

    def cameras(self) -> list[CameraSummary]:
        """What there is of each camera, ordered by name."""
        with self._lock.reading():
            columns = self._columns[: len(self._ids)]
            counts = self._values["camera"].counts()
            first = np.full(len(counts), np.iinfo(np.int64).max)
            last = np.full(len(counts), np.iinfo(np.int64).min)
            # In one piece each: twenty times as fast.
            codes, times = columns["camera"].astype(np.intp), columns["time_us"].copy()
        np.minimum.at(first, codes, times)
        np.maximum.at(last, codes, times)
        return [
            CameraSummary(name, count, from_us(int(first[code])), from_us(int(last[code])))
            for code, (name, count) in sorted(enumerate(counts), key=lambda pair: pair[1])
            if count
        ]

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
        mask = np.ones(len(columns), np.bool_)
        if wanted.cameras:
            mask &= np.isin(columns["camera"], self._values["camera"].codes(wanted.cameras))
        if wanted.exclude_cameras:
            excluded = self._values["camera"].codes(wanted.exclude_cameras)
            mask &= ~np.isin(columns["camera"], excluded)
        if wanted.persons:
            mask &= np.isin(columns["person"], self._values["person"].codes(wanted.persons))
        if wanted.exclude_tracks:
            mask &= ~np.isin(columns["track"], self._values["track"].codes(wanted.exclude_tracks))
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
        fetch = min(limit + _EXTRA, count)
        while True:
            scores, rows = self._vectors.nearest(queries, fetch, allowed)
            last = min(limit, fetch) - 1
            tied = scores[:, -1] >= scores[:, last] - _SCORE_TOLERANCE
            if fetch == count or not tied.any():
                return rows
            fetch = min(fetch * 4, count)

    def _best(
        self, query: NDArray[np.float32], rows: NDArray[np.int64], limit: int, left_out: str | None
    ) -> list[Hit]:
        vectors = self._vectors.read(rows)
        exact = vectors.astype(np.float64) @ query.astype(np.float64)
        scores = np.clip(exact, -1, 1).astype(np.float32)
        hits = [
            Hit(int(self._columns["number"][row]), self._ids[row], float(score))
            for row, score in zip(rows, scores, strict=True)
            if self._ids[row] != left_out
        ]
        hits.sort(key=lambda hit: (-hit.score, hit.id))
        return hits[:limit]

    def _forget_values(self, row: int) -> None:
        for name in _TEXTS:
            self._values[name].remove(int(self._columns[name][row]))

    def _place(self, sighting: str) -> int:
        """The row of a sighting, a new one at the end where it has none."""
        row = self._row_of.setdefault(sighting, len(self._ids))
        if row == len(self._ids):
            self._ids.append(sighting)
        return row

    def _reserve(self, rows: int) -> None:
        if rows > len(self._columns):
            grown = np.zeros(max(rows, 2 * len(self._columns), 64), _COLUMNS)
            grown[: len(self._columns)] = self._columns
            self._columns = grown
