"""Re-ranked (k-reciprocal Jaccard) distance of images, sparse.

Zhong et al. Re-ranking Person Re-identification with k-reciprocal Encoding. CVPR 2017.

Notation (I[i] ranks the neighbours of i by squared Euclidean distance d2, i itself first)
    N(i,k)   first k entries of I[i]
    R(i,k)   j in N(i,k) with i in N(j,k): the k-reciprocal neighbours
    R*(i)    R(i,k1), and R(c,kh) of every c in R(i,k1) that shares more than 2/3 of R(c,kh)
             with R(i,k1)
    V[i,j]   exp(-w(i,j)) over j in R*(i), scaled to sum 1
    V'[i]    mean of V[j] over j in N(i,k2)
    J(i,j)   1 - s / (2 - s), s = sum_l min(V'[i,l], V'[j,l])
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from adapt.errors import DataError, NonFiniteFeaturesError
from adapt.graph.neighbours import nearest_neighbours

PAIR_BLOCK = 4096
"""Pairs whose distance is computed at a time."""


def jaccard_distance(
    features: NDArray[np.float32],
    *,
    k1: int,
    k2: int,
    variant: Literal["classic", "faiss"],
    max_distance: float = 1.0,
) -> csr_array:
    """Compute the k-reciprocal Jaccard distance of all pairs of images.

    J as in the notation at the top of this module. Two variants are in circulation; they give
    different distances, hence another radius:
        classic (Zhong 2017, UDAP, SSG, MMT): R uses k1 + 1 entries, w = d2(i,j) / max_l d2(i,l)
        faiss (SpCL, OpenUnReID, Cluster-Contrast): R uses k1 entries, w = d2(i,j)
    and in both kh = round(k1 / 2) + 1 entries, rounded half to even.

    Args:
        features: (N, D) floating point, N >= 1; rows are L2-normalised here.
        k1: neighbours for reciprocity, >= 1 (classic 20, faiss 30); more than N means all.
        k2: neighbours averaged by query expansion, >= 1 (6); 1 means no expansion.
        variant: see above.
        max_distance: pairs farther than this are not stored, in (0, 1].

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
    unit = _unit_rows(features)
    reach = k1 + 1 if variant == "classic" else k1
    rank, farthest = nearest_neighbours(unit, min(len(unit), max(reach, k2)))
    members = _expanded_reciprocal(rank, reach, int(np.round(k1 / 2)) + 1)
    weight = _squared_distances(unit, members)
    if variant == "classic":
        # A row maximum of 0 means that all images are the same.
        weight /= np.repeat(np.where(farthest > 0, farthest, 1), np.diff(members.indptr))
    encoding = members.astype(np.float64)
    encoding.data = np.exp(-weight)
    encoding.data /= np.repeat(encoding.sum(axis=1), np.diff(encoding.indptr))
    expansion = _adjacency(rank, k2).astype(np.float64) / min(k2, rank.shape[1])
    return _jaccard(expansion @ encoding, max_distance)


def _unit_rows(features: NDArray[np.float32]) -> NDArray[np.float32]:
    if features.ndim != 2 or len(features) == 0:
        raise DataError(f"no features to compare (shape {features.shape}): add crops to the site")
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise NonFiniteFeaturesError(int(bad[0]), len(bad))
    length = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    return np.ascontiguousarray(features / np.maximum(length, 1e-12), np.float32)


def _adjacency(rank: NDArray[np.int64], entries: int) -> csr_array:
    """(N, N) ones at N(i, entries)."""
    first = rank[:, :entries]
    total, width = first.shape
    pointer = np.arange(0, total * width + 1, width)
    return csr_array((np.ones(first.size, np.int32), first.ravel(), pointer), (total, total))


def _reciprocal(rank: NDArray[np.int64], entries: int) -> csr_array:
    """(N, N) ones at R(i, entries)."""
    forward = _adjacency(rank, entries)
    return forward.multiply(forward.T).tocsr()


def _expanded_reciprocal(rank: NDArray[np.int64], reach: int, half_reach: int) -> csr_array:
    """(N, N) entries at R*(i); their values mean nothing."""
    full, half = _reciprocal(rank, reach), _reciprocal(rank, half_reach)
    shared = (full @ half.T).multiply(full).tocsr()  # |R(c,kh) n R(i,k1)| at (i,c), c in R(i,k1)
    half_size = np.diff(half.indptr)
    shared.data = (3 * shared.data > 2 * half_size[shared.indices]).astype(np.int32)
    shared.eliminate_zeros()
    expanded = (full + shared @ half).tocsr()
    expanded.sort_indices()
    return expanded


def _squared_distances(unit: NDArray[np.float32], pairs: csr_array) -> NDArray[np.float64]:
    """d2 of every stored pair, in storage order."""
    rows = np.repeat(np.arange(len(unit)), np.diff(pairs.indptr))
    squared = np.empty(len(rows), np.float64)
    for start in range(0, len(rows), PAIR_BLOCK):
        part = slice(start, start + PAIR_BLOCK)
        difference = unit[rows[part]] - unit[pairs.indices[part]]
        squared[part] = np.einsum("pd,pd->p", difference, difference)
    return squared


def _jaccard(encoding: csr_array, max_distance: float) -> csr_array:
    """J of every pair of rows of V' that overlap.

    Each row walks the columns it has entries in. Columns are walked in ascending order, so J(i,j)
    and J(j,i) add the same numbers in the same order and are equal to the last bit.
    """
    encoding.sort_indices()
    columns = encoding.tocsc()
    total = encoding.shape[0]
    found_columns, found_values, pointer = [], [], np.zeros(total + 1, np.int64)
    for i in range(total):
        own = slice(encoding.indptr[i], encoding.indptr[i + 1])
        start = columns.indptr[encoding.indices[own]]
        length = columns.indptr[encoding.indices[own] + 1] - start
        offset = np.repeat(start - np.cumsum(length) + length, length)
        entries = offset + np.arange(len(offset))
        shared = np.minimum(np.repeat(encoding.data[own], length), columns.data[entries])
        overlap = np.bincount(columns.indices[entries], weights=shared, minlength=total)
        touched = np.flatnonzero(overlap)
        distance = 1 - overlap[touched] / (2 - overlap[touched])
        distance = np.clip(distance, 0, 1).astype(np.float32)
        distance[touched == i] = 0
        near = distance <= max_distance
        found_columns.append(touched[near].astype(np.int32))
        found_values.append(distance[near])
        pointer[i + 1] = pointer[i] + near.sum()
    data, indices = np.concatenate(found_values), np.concatenate(found_columns)
    return csr_array((data, indices, pointer), (total, total))
