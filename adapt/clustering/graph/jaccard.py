"""Re-ranked (k-reciprocal Jaccard) distance of images, sparse.

Zhong et al. Re-ranking Person Re-identification with k-reciprocal Encoding. CVPR 2017.

Notation (I[i] ranks the neighbors of i by squared Euclidean distance d2, i itself first)
    N(i,k)   first k entries of I[i]
    R(i,k)   j in N(i,k) with i in N(j,k): the k-reciprocal neighbors
    R*(i)    R(i,k1), and R(c,kh) of every c in R(i,k1) that shares more than 2/3 of R(c,kh)
             with R(i,k1)
    V[i,j]   exp(-w(i,j)) over j in R*(i), scaled to sum 1
    V'[i]    mean of V[j] over j in N(i,k2)
    J(i,j)   1 - s / (2 - s), s = sum_l min(V'[i,l], V'[j,l])
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from adapt.clustering.graph.device import DeviceSearch, overlap_rows_on
from adapt.clustering.graph.neighbors import (
    FaissSearch,
    Neighbors,
    Search,
    UnitRows,
    nearest_neighbors,
)
from adapt.clustering.graph.overlap import Overlaps, overlap_rows
from adapt.clustering.graph.rows import RowBlock, StoredGraph, stack_rows
from adapt.runtime.timing import Stages

Variant = Literal["classic", "faiss"]


def jaccard_distance(
    features: NDArray[np.floating],
    *,
    k1: int,
    k2: int,
    variant: Variant,
    max_distance: float = 1.0,
    device: torch.device | None = None,
) -> csr_array:
    """Compute the k-reciprocal Jaccard distance of all pairs of images.

    J as in the notation at the top of this module. Two variants are in circulation; they give
    different distances, hence another radius:
        classic (Zhong 2017, UDAP, SSG, MMT): R uses k1 + 1 entries, w = d2(i,j) / max_l d2(i,l)
        faiss (SpCL, OpenUnReID, Cluster-Contrast): R uses k1 entries, w = d2(i,j)
    and in both kh = round(k1 / 2) + 1 entries, rounded half to even.

    Args:
        features: (N, D) floating point, N >= 1; rows are L2-normalized here.
        k1: neighbors for reciprocity, >= 1 (classic 20, faiss 30); more than N means all.
        k2: neighbors averaged by query expansion, >= 1 (6); 1 means no expansion; the
            faiss variant averages at most k1, which is all that its public code searches.
        variant: see above.
        max_distance: pairs farther than this are not stored, in (0, 1].
        device: a GPU to compute on; all CPU cores unless given.

    Returns:
        (N, N) symmetric float32 in [0, 1] of the pairs with J <= max_distance. The diagonal is
        stored as zeros. With max_distance 1, a pair that is not stored has J = 1.

    Raises:
        DataError: there is no image. NonFiniteFeaturesError: features hold NaN or infinity.
        ValueError: k1, k2, variant or max_distance is out of range.

    Source: Zhong et al., CVPR 2017, sections 3.2 to 3.4; without the original distance
        (lambda = 0), and "more than 2/3" where the paper prints "at least", as all code has it.
    """
    if k1 < 1 or k2 < 1 or not 0 < max_distance <= 1 or variant not in ("classic", "faiss"):
        raise ValueError(
            f"k1 {k1} and k2 {k2} must be >= 1, max_distance {max_distance} in (0, 1] and variant "
            f"{variant!r} classic or faiss"
        )
    graph = JaccardGraph(features, k1=k1, k2=k2, variant=variant, device=device)
    return graph.distances(max_distance)


class JaccardGraph:
    """The k-reciprocal Jaccard distance of N images, computed as far as it is asked for.

    Holds the neighbors, V' (some 80 entries a row) and the matrix that was asked for last, nothing
    N x N.

    features, near: the rows of length 1 and their nearest neighbors.
    """

    def __init__(
        self,
        features: NDArray[np.floating],
        *,
        k1: int,
        k2: int,
        variant: Variant,
        device: torch.device | None = None,
        stages: Stages | None = None,
    ) -> None:
        """Args, errors: those of `jaccard_distance`; stages: records the seconds of each stage."""
        self._stages = stages or Stages()
        if k1 < 1 or k2 < 1 or variant not in ("classic", "faiss"):
            raise ValueError(f"k1 {k1}, k2 {k2} must be >= 1; {variant!r} classic or faiss")
        self.features = rows = UnitRows(features)
        reach = k1 + 1 if variant == "classic" else k1
        with self._stages("neighbors"):
            self.near = nearest_neighbors(
                rows,
                # public code of the faiss variant has no more than k1 to average
                max(reach, k2) if variant == "classic" else reach,
                farthest=variant == "classic",
                search=search_on(device),
            )
        with self._stages("encoding"):
            self._encoding = encode(rows, self.near, k1=k1, k2=k2, variant=variant)
        self._device = device
        self._stored: tuple[float, csr_array] | None = None

    @property
    def images(self) -> int:
        """N."""
        return int(self._encoding.shape[0])

    def rows(self, max_distance: float) -> Iterator[RowBlock]:
        """All pairs with J <= max_distance, row by row."""
        if not 0 < max_distance <= 1:
            raise ValueError(f"max_distance must be in (0, 1], got {max_distance}")
        min_shared = 2 * (1 - max_distance) / (2 - max_distance)
        if self._device is None:
            found = overlap_rows(self._encoding, min_shared)
        else:
            found = overlap_rows_on(self._device, self._encoding, min_shared)
        return (_distances(overlap, self.images, max_distance) for overlap in found)

    def distances(self, max_distance: float) -> csr_array:
        """All pairs with J <= max_distance as a matrix."""
        if self._stored is None or self._stored[0] < max_distance:
            with self._stages("jaccard"):
                self._stored = (max_distance, stack_rows(self.rows(max_distance)))
        reach, matrix = self._stored
        if reach == max_distance:
            return matrix
        return stack_rows(StoredGraph(matrix).rows(max_distance))


def search_on(device: torch.device | None) -> Search:
    """Search on a device, or on all CPU cores."""
    return FaissSearch() if device is None else DeviceSearch(device)


def encode(rows: UnitRows, near: Neighbors, *, k1: int, k2: int, variant: Variant) -> csr_array:
    """Compute V' (see the notation): (N, N) float32, rows sum to 1."""
    reach = k1 + 1 if variant == "classic" else k1
    members = _expanded_reciprocal(near.rank, reach, int(np.round(k1 / 2)) + 1)
    row = np.repeat(np.arange(len(rows)), np.diff(members.indptr))
    weight = rows.squared_distances(row, members.indices).astype(np.float64)
    if near.farthest is not None:
        # A row maximum of 0 means that all images are the same.
        weight /= np.where(near.farthest > 0, near.farthest, 1)[row]
    values = np.exp(-weight)
    values /= np.bincount(row, weights=values)[row]
    encoding = csr_array((values, members.indices, members.indptr), members.shape)
    expansion = _adjacency(near.rank, k2).astype(np.float64) / min(k2, near.rank.shape[1])
    return (expansion @ encoding).astype(np.float32)


def _distances(found: Overlaps, images: int, max_distance: float) -> RowBlock:
    """J = 1 - s / (2 - s) of rows that sum to 1."""
    distance = np.clip(1 - found.shared / (2 - found.shared), 0, 1).astype(np.float32)
    distance[found.row + found.first == found.column] = 0
    order = np.lexsort((found.column, found.row))
    counts = np.bincount(found.row, minlength=found.rows)
    block = RowBlock(
        found.first,
        images,
        np.concatenate([[0], np.cumsum(counts)]),
        found.column[order].astype(np.int32),
        distance[order],
    )
    return block.where(block.distance <= max_distance)


def _adjacency(rank: NDArray[np.int32], entries: int) -> csr_array:
    """(N, N) ones at N(i, entries)."""
    first = rank[:, :entries]
    total, width = first.shape
    pointer = np.arange(0, total * width + 1, width)
    return csr_array((np.ones(first.size, np.int32), first.ravel(), pointer), (total, total))


def _reciprocal(rank: NDArray[np.int32], entries: int) -> csr_array:
    """(N, N) ones at R(i, entries)."""
    forward = _adjacency(rank, entries)
    return forward.multiply(forward.T).tocsr()


def _expanded_reciprocal(rank: NDArray[np.int32], reach: int, half_reach: int) -> csr_array:
    """(N, N) entries at R*(i); their values mean nothing."""
    full, half = _reciprocal(rank, reach), _reciprocal(rank, half_reach)
    shared = (full @ half.T).multiply(full).tocsr()  # |R(c,kh) n R(i,k1)| at (i,c), c in R(i,k1)
    half_size = np.diff(half.indptr)
    shared.data = (3 * shared.data > 2 * half_size[shared.indices]).astype(np.int32)
    shared.eliminate_zeros()
    expanded = (full + shared @ half).tocsr()
    expanded.sort_indices()
    return expanded
