"""Overlaps of sparse rows, compiled: who shares how much with whom, without an N x N matrix.

Exact by prefix filtering (Chaudhuri et al., ICDE 2006; Bayardo et al., WWW 2007). Columns are put
in order from rare to common. A row's suffix is its longest tail, in that order, whose sum is below
the overlap that is asked for; the rest is its prefix. Two rows that share only columns of one's
suffix cannot reach that overlap, so only prefixes are indexed, and the columns that many rows have
(hubs) are never walked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from adapt.runtime.numba_cache import compiled
from adapt.runtime.threads import in_threads

ROW_BLOCK = 512
"""Rows that one thread computes at a time."""

SLACK = 1e-5
"""More than float32 rounding takes from an overlap; pairs that far below are still looked at."""


@dataclass(frozen=True)
class Overlaps:
    """What some consecutive rows share with others.

    first, rows: the rows first..first + rows - 1. row, column, shared: (M,) of each pair: the row
    counted from `first`, the other row, and the overlap (float64); in no order.
    """

    first: int
    rows: int
    row: NDArray[np.integer]
    column: NDArray[np.integer]
    shared: NDArray[np.float64]


def overlap_rows(rows: csr_array, min_shared: float) -> Iterator[Overlaps]:
    """Find which rows overlap: s(i,j) = sum_l min(row_i[l], row_j[l]), on all cores.

    s(i,j) and s(j,i) add the same numbers in the same order: they are equal to the last bit.

    Args:
        rows: (N, N) entries > 0.
        min_shared: overlaps below this may be missing; 0 finds all that are not zero.

    Yields:
        All rows in order, some hundred at a time; a row overlaps with itself, too.
    """
    total = rows.shape[0]
    start = rows.indptr.astype(np.int64)
    count = np.bincount(rows.indices, minlength=total)
    renamed = np.empty(total, np.int32)
    renamed[np.argsort(count, kind="stable")] = np.arange(total, dtype=np.int32)
    column, value = renamed[rows.indices], rows.data.astype(np.float32)
    prefix, suffix = _sort_and_split(start, column, value, min_shared - SLACK)
    sorted_rows = (start, column, value, prefix, suffix)
    lists = _lists(start, prefix, column, value)

    def find(first: int) -> Overlaps:
        stop = min(first + ROW_BLOCK, total)
        counts, other, shared = _overlaps(sorted_rows, lists, min_shared - SLACK, first, stop)
        return Overlaps(
            first, stop - first, np.repeat(np.arange(stop - first), counts), other, shared
        )

    return in_threads(find, range(0, total, ROW_BLOCK))


@compiled
def _sort_and_split(start, column, value, min_shared):  # type: ignore[no-untyped-def]
    """Sort each row by column in place; find where its suffix begins, and the suffix's sum."""
    total = len(start) - 1
    prefix = np.empty(total, np.int64)
    suffix = np.zeros(total, np.float64)
    for i in range(total):
        own = slice(start[i], start[i + 1])
        order = np.argsort(column[own])
        column[own] = column[own][order]
        value[own] = value[own][order]
        p = start[i + 1]
        while p > start[i] and suffix[i] + value[p - 1] < min_shared:
            p -= 1
            suffix[i] += value[p]
        prefix[i] = p
    return prefix, suffix


@compiled
def _lists(start, prefix, column, value):  # type: ignore[no-untyped-def]
    """Turn the prefixes around: for each column the rows that have it, ascending, as CSC."""
    total = len(prefix)
    list_start = np.zeros(total + 1, np.int64)
    for i in range(total):
        for p in range(start[i], prefix[i]):
            list_start[column[p] + 1] += 1
    list_start = np.cumsum(list_start)
    free = list_start[:-1].copy()
    list_row = np.empty(list_start[-1], np.int32)
    list_value = np.empty(list_start[-1], np.float32)
    for i in range(total):
        for p in range(start[i], prefix[i]):
            at = free[column[p]]
            list_row[at] = i
            list_value[at] = value[p]
            free[column[p]] += 1
    return list_start, list_row, list_value


@compiled
def _overlaps(rows, lists, min_shared, first, stop):  # type: ignore[no-untyped-def]
    """Count, for the rows first..stop - 1, who overlaps with them, and by how much.

    rows: start, column and value as CSR, prefix and suffix, see `_sort_and_split`. lists: see
    `_lists`.
    """
    start, column, value, prefix, suffix = rows
    list_start, list_row, list_value = lists
    total = len(prefix)
    shared = np.zeros(total, np.float64)
    own = np.zeros(total, np.float32)  # row i, dense
    touched = np.empty(total, np.int32)
    counts = np.zeros(stop - first, np.int64)
    found_row = np.empty(1024, np.int32)
    found_shared = np.empty(1024, np.float64)
    filled = 0
    for i in range(first, stop):
        count = 0
        for p in range(start[i], prefix[i]):
            v = value[p]
            for e in range(list_start[column[p]], list_start[column[p] + 1]):
                j = list_row[e]
                if shared[j] == 0:
                    touched[count] = j
                    count += 1
                shared[j] += min(v, list_value[e])
        for p in range(start[i], start[i + 1]):
            own[column[p]] = value[p]
        if filled + count > len(found_row):
            size = 2 * (filled + count)
            longer_row, longer_shared = np.empty(size, np.int32), np.empty(size, np.float64)
            longer_row[:filled] = found_row[:filled]
            longer_shared[:filled] = found_shared[:filled]
            found_row, found_shared = longer_row, longer_shared
        for t in range(count):
            j = touched[t]
            s = shared[j]
            shared[j] = 0
            # `shared` holds the columns before both suffixes; the others are looked up now.
            border_i = column[prefix[i]] if prefix[i] < start[i + 1] else total
            border_j = column[prefix[j]] if prefix[j] < start[j + 1] else total
            if s + (suffix[i] if border_i <= border_j else suffix[j]) < min_shared:
                continue
            p = prefix[j]
            while p > start[j] and column[p - 1] >= border_i:
                p -= 1
            for q in range(p, start[j + 1]):
                s += min(own[column[q]], value[q])
            if s >= min_shared:
                found_row[filled] = j
                found_shared[filled] = s
                filled += 1
                counts[i - first] += 1
        for p in range(start[i], start[i + 1]):
            own[column[p]] = 0
    return counts, found_row[:filled].copy(), found_shared[:filled].copy()
