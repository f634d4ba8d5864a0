"""The neighbor graph on a GPU: the same answers as `neighbors` and `overlap`, by torch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from adapt.clustering.graph.overlap import SLACK, Overlaps

DENSE_ENTRIES = 1 << 25
"""Overlaps in one dense block on the device (256 MB: float64, so that sums do not depend on the
order in which a GPU adds)."""

LIST_ENTRIES = 1 << 23
"""Entries of inverted lists that are added at a time (some 300 MB)."""


class DeviceSearch:
    """Nearest and farthest rows by blocks of matrix products on a device."""

    def __init__(self, device: torch.device) -> None:
        """device: any that torch knows."""
        self._device = device

    def nearest(
        self, queries: NDArray[np.float32], block: NDArray[np.float32], width: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(B, width) squared distances, ascending, and their positions in `block`."""
        squared = self._squared(queries, block)
        value, position = squared.topk(width, dim=1, largest=False)
        # Of images that tie for the last places topk takes any, the rule the first.
        tied = (squared <= value[:, -1:]).sum(1) > width
        if tied.any():
            order = squared[tied].sort(dim=1, stable=True)
            value[tied], position[tied] = order.values[:, :width], order.indices[:, :width]
        # topk lists ties in any order; where blocks are put together the first listed stays.
        position, by_position = position.sort(dim=1)
        value, by_value = value.gather(1, by_position).sort(dim=1, stable=True)
        return value.cpu().numpy(), position.gather(1, by_value).cpu().numpy()

    def farthest(
        self, queries: NDArray[np.float32], block: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """(B,) squared distance of the farthest row of `block`."""
        found: NDArray[np.float32] = self._squared(queries, block).amax(1).cpu().numpy()
        return found

    def _squared(self, queries: NDArray[np.float32], block: NDArray[np.float32]) -> torch.Tensor:
        left, right = (torch.from_numpy(x).to(self._device) for x in (queries, block))
        squared = torch.addmm(right.square().sum(1), left, right.T, alpha=-2)
        return squared.add_(left.square().sum(1, keepdim=True))


def overlap_rows_on(
    device: torch.device,
    rows: csr_array,
    min_shared: float,
    *,
    dense_entries: int = DENSE_ENTRIES,
    list_entries: int = LIST_ENTRIES,
) -> Iterator[Overlaps]:
    """Do the work of `overlap_rows` on a device, a dense block of rows at a time.

    Args:
        device: where to compute.
        rows: (N, N) entries > 0.
        min_shared: overlaps below this may be missing; 0 finds all that are not zero.
        dense_entries, list_entries: what is held at a time, see there.

    Yields:
        All rows in order.
    """
    total = rows.shape[0]
    start, column, value = _tensors(rows, device)
    list_start, list_row, list_value = _tensors(rows.tocsc(), device)
    list_length = list_start.diff()
    block_rows = max(1, dense_entries // total)
    for first in range(0, total, block_rows):
        stop = min(first + block_rows, total)
        own = slice(int(start[first]), int(start[stop]))
        shared = torch.zeros((stop - first) * total, dtype=torch.float64, device=device)
        row = torch.repeat_interleave(
            torch.arange(stop - first, device=device), start[first : stop + 1].diff()
        )
        for part in _parts(list_length[column[own]], list_entries):
            columns = column[own][part]
            length = list_length[columns]
            entry = torch.repeat_interleave(list_start[columns], length) + _within(length)
            min_of = torch.minimum(
                torch.repeat_interleave(value[own][part], length), list_value[entry]
            )
            place = torch.repeat_interleave(row[part], length) * total + list_row[entry]
            shared.index_add_(0, place, min_of.double())
        found = torch.nonzero(shared > max(min_shared - SLACK, 0)).squeeze(1)
        at = found.cpu().numpy()
        yield Overlaps(first, stop - first, at // total, at % total, shared[found].cpu().numpy())


def _tensors(rows: csr_array, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Row starts, columns and values."""
    kinds = ((rows.indptr, np.int64), (rows.indices, np.int64), (rows.data, np.float32))
    return tuple(torch.from_numpy(x.astype(kind)).to(device) for x, kind in kinds)


def _within(length: torch.Tensor) -> torch.Tensor:
    """0..n-1 for each n."""
    total = int(length.sum())
    begin = length.cumsum(0) - length
    return torch.arange(total, device=length.device) - torch.repeat_interleave(begin, length)


def _parts(length: torch.Tensor, entries: int) -> Iterator[slice]:
    """Slices of lists that hold at most that many entries together; a longer list is alone."""
    end = length.cumsum(0).cpu().numpy()
    begin = 0
    while begin < len(end):
        done = end[begin - 1] if begin else 0
        stop = max(begin + 1, int(np.searchsorted(end, done + entries, side="right")))
        yield slice(begin, stop)
        begin = stop
