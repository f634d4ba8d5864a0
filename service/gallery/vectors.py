"""Vectors by row, in faiss, in parts: where more are added, those of full parts are not copied."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

PART = 32_768
"""Rows of a part, a multiple of 8. Its memory is doubled while it grows, and each write waits."""


class Vectors:
    """(rows, D) float32. The caller keeps readers and writers apart."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._parts: list[Any] = []
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def resize(self, rows: int) -> None:
        """Have so many rows: new ones at the end are 0, or the last ones are no more."""
        while self._rows < rows:
            if self._rows == PART * len(self._parts):
                self._parts.append(faiss.IndexFlatIP(self._dimension))
            added = min(rows, PART * len(self._parts)) - self._rows
            self._parts[-1].add(np.zeros((added, self._dimension), np.float32))
            self._rows += added
        parts = -(-rows // PART)
        del self._parts[parts:]
        if parts:
            self._parts[-1].ntotal = rows - PART * (parts - 1)
        self._rows = rows

    def give_back(self) -> None:
        """Give back memory that is kept for further rows; copies a part."""
        for number in range(len(self._parts))[-1:]:
            fresh = faiss.IndexFlatIP(self._dimension)
            fresh.add(self._part(number))
            self._parts[number] = fresh

    def write(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Replace the vectors of rows; of equal rows the last one counts."""
        parts = rows // PART
        for number in np.unique(parts):
            here = parts == number
            self._part(number)[rows[here] % PART] = vectors[here]

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(len(rows), D) the vectors of rows."""
        found = np.empty((len(rows), self._dimension), np.float32)
        parts = rows // PART
        for number in np.unique(parts):
            here = parts == number
            found[here] = self._part(number)[rows[here] % PART]
        return found

    def nearest(
        self, queries: NDArray[np.float32], count: int, allowed: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The rows of the largest inner products.

        Args:
            queries: (Q, D) float32.
            count: of rows for each query, 1 to the number of allowed ones.
            allowed: (rows,) which to consider.

        Returns:
            (Q, count) float32 the products, largest first, and (Q, count) int64 their rows.
        """
        products, rows = [], []
        for number, part in enumerate(self._parts):
            start = PART * number
            here = allowed[start : start + PART]
            if here.any():
                found = _nearest(part, queries, count, here)
                products.append(found[0])
                rows.append(found[1] + start)
        every = np.concatenate(products, axis=1)
        best = np.argsort(-every, axis=1, kind="stable")[:, :count]
        return (
            np.take_along_axis(every, best, axis=1),
            np.take_along_axis(np.concatenate(rows, axis=1), best, axis=1),
        )

    def _part(self, number: int) -> NDArray[np.float32]:
        """(rows of a part, D) its vectors where faiss keeps them; until it gets others."""
        part = self._parts[number]
        view: NDArray[np.float32] = faiss.rev_swig_ptr(part.get_xb(), part.ntotal * self._dimension)
        return view.reshape(-1, self._dimension)


def _nearest(
    part: Any, queries: NDArray[np.float32], count: int, allowed: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """As `Vectors.nearest`; where the part has fewer allowed rows, the last ones are none."""
    only = None
    if not allowed.all():
        bitmap = np.packbits(allowed, bitorder="little")
        only = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bitmap))
    found: tuple[NDArray[np.float32], NDArray[np.int64]] = part.search(
        queries, min(count, part.ntotal), params=only
    )
    return found
