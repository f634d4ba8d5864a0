"""The N x N way of research code, for comparison: k-reciprocal Jaccard distance and DBSCAN."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import DBSCAN

from adapt.clustering.graph.jaccard import Variant
from adapt.clustering.graph.neighbors import Neighbors

ZERO = 1e-6
"""Squared distances, and Jaccard distances, up to this are those of copies."""

ON_CPU = 3
"""`search_option` of the public code."""


def unit_rows(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """(N, D) rows of length 1."""
    wide = features.astype(np.float64)
    wide /= np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return wide.astype(np.float32)


def dense_neighbors(unit: NDArray[np.float32], count: int) -> Neighbors:
    """Rank all images by one N x N product: by (squared distance, index), the image itself first.

    In float64, and each group of copies once, so that copies are exactly as far as each other.
    """
    kept, group = np.unique(unit, axis=0, return_inverse=True)
    wide = kept.astype(np.float64)
    length = (wide**2).sum(1)
    squared = length[:, None] + length - 2 * wide @ wide.T
    squared = np.where(squared < ZERO, 0, squared)[group][:, group]
    farthest = squared.max(axis=1)
    np.fill_diagonal(squared, -1)
    rank = np.argsort(squared, axis=1, kind="stable")[:, :count]
    nearest = np.maximum(np.take_along_axis(squared, rank, 1), 0)
    return Neighbors(rank.astype(np.int32), nearest.astype(np.float32), farthest.astype(np.float32))


def dense_jaccard(
    unit: NDArray[np.float32], near: Neighbors, *, k1: int, k2: int, variant: Variant
) -> NDArray[np.float32]:
    """Compute all N x N distances; the notation is that of `adapt.clustering.graph.jaccard`.

    Two N x N arrays live at the peak, as in SpCL and OpenUnReID; the older code holds four to ten.

    Args:
        unit: (N, D) rows of length 1.
        near: lists of k1 (faiss) or k1 + 1 (classic) entries or more; classic: with `farthest`.
        k1, k2, variant: see `adapt.clustering.graph.jaccard.jaccard_distance`.
    """
    encoding = _encode(unit, near, k1, variant)
    if k2 > 1:
        averaged = np.empty_like(encoding)
        for i, own in enumerate(near.rank[:, :k2]):
            averaged[i] = encoding[own].mean(axis=0)
        encoding = averaged
        del averaged
    lists = [np.flatnonzero(encoding[:, column]) for column in range(len(unit))]
    jaccard = np.empty_like(encoding)
    for i, row in enumerate(encoding):
        shared = np.zeros(len(unit), np.float32)
        for column in np.flatnonzero(row):
            images = lists[column]
            shared[images] += np.minimum(row[column], encoding[images, column])
        jaccard[i] = 1 - shared / (2 - shared)
    return np.maximum(jaccard, 0, out=jaccard)


def _encode(
    unit: NDArray[np.float32], near: Neighbors, k1: int, variant: Variant
) -> NDArray[np.float32]:
    """V."""
    total = len(unit)
    reach, half_reach = (k1 + 1 if variant == "classic" else k1), int(np.round(k1 / 2)) + 1
    full = [_reciprocal(near.rank, i, reach) for i in range(total)]
    half = [_reciprocal(near.rank, i, half_reach) for i in range(total)]
    encoding = np.zeros((total, total), np.float32)
    for i, own in enumerate(full):
        expanded = [own]
        for candidate in (half[c] for c in own):
            shared = np.intersect1d(candidate, own, assume_unique=True)
            if 3 * len(shared) > 2 * len(candidate):
                expanded.append(candidate)
        members = np.unique(np.concatenate(expanded))
        weight = ((unit[members] - unit[i]) ** 2).sum(axis=1)
        weight[weight < ZERO] = 0
        if variant == "classic":
            assert near.farthest is not None
            weight /= near.farthest[i] or 1
        value = np.exp(-weight)
        encoding[i, members] = value / value.sum()
    return encoding


def _reciprocal(rank: NDArray[np.int32], image: int, entries: int) -> NDArray[np.int32]:
    """R(i, entries)."""
    forward = rank[image, :entries]
    found: NDArray[np.int32] = forward[(rank[forward, :entries] == image).any(axis=1)]
    return found


def dense_dbscan(
    jaccard: NDArray[np.float32], radius: float, min_samples: int
) -> NDArray[np.int64]:
    """Cluster with the call that SpCL and OpenUnReID make."""
    estimator = DBSCAN(eps=radius, min_samples=min_samples, metric="precomputed", n_jobs=-1)
    labels: NDArray[np.int64] = estimator.fit_predict(jaccard)
    return labels


def dense_radius_by_rho(jaccard: NDArray[np.float32], rho: float) -> float:
    """Average the smallest fraction rho of the pairs i < j that are not copies."""
    pairs = jaccard[np.triu_indices(len(jaccard), 1)]
    pairs = np.sort(pairs[pairs > ZERO])
    return float(pairs[: round(rho * len(pairs))].mean(dtype=np.float64))


def public_jaccard(
    file: Path, unit: NDArray[np.float32], *, k1: int, k2: int, near: Neighbors | None = None
) -> NDArray[np.float32]:
    """Run `compute_jaccard_distance` of a file of SpCL (faiss_rerank.py) or OpenUnReID.

    Args:
        file: the public file, from anywhere; its own `faiss_utils` is not needed.
        unit: (N, D) rows of length 1.
        near: lists to use instead of the file's own search.

    Raises:
        ImportError: the file needs more than is here. AttributeError: it has no such function.
    """
    compute = _public_function(file, near)
    quiet = {"print_flag", "verbose"} & set(inspect.signature(compute).parameters)
    found: NDArray[np.float32] = compute(
        torch.from_numpy(unit), k1=k1, k2=k2, search_option=ON_CPU, **dict.fromkeys(quiet, False)
    )
    return found


class _ReadyLists:
    """A faiss index that has found its answers already."""

    def __init__(self, near: Neighbors) -> None:
        self._near = near

    def add(self, features: NDArray[np.float32]) -> None:
        """Nothing to index."""

    def search(
        self, queries: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The lists, as faiss types them."""
        return self._near.squared[:, :count], self._near.rank[:, :count].astype(np.int64)


def _public_function(file: Path, near: Neighbors | None) -> Callable[..., NDArray[np.float32]]:
    """Import the file with a stand-in for the module beside it, most of which needs a GPU."""
    package, helpers = ModuleType("public_code"), ModuleType("public_code.faiss_utils")
    package.__path__ = []

    def index(width: int) -> object:
        return faiss.IndexFlatL2(width) if near is None else _ReadyLists(near)

    vars(helpers)["index_init_cpu"] = index
    for gpu_only in ("index_init_gpu", "search_index_pytorch", "search_raw_array_pytorch"):
        vars(helpers)[gpu_only] = None
    sys.modules |= {module.__name__: module for module in (package, helpers)}
    spec = importlib.util.spec_from_file_location("public_code.jaccard", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[..., NDArray[np.float32]] = module.compute_jaccard_distance
    return found
