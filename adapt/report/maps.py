"""Embeddings of a site in two dimensions: what lies together there lies together for the model.

Shapes: N crops, D embedding dimensions.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from adapt.report.palette import COLORS, GRAY

COLORED = 12
"""Cameras or clusters that get a color of their own, the largest; each color with two signs."""

_SIGNS = (("o", "●"), ("^", "▲"))
_DIMENSIONS = 50
_PERPLEXITY = 30.0
_ALIKE = 1e-6


@dataclass(frozen=True)
class Entry:
    """A line of a legend. sign: as drawn. color: #rrggbb. marker: its matplotlib name."""

    name: str
    color: str
    sign: str
    marker: str


@dataclass(frozen=True)
class Legend:
    """What colors and signs mean; `codes` are those of the entries, -1 of the gray rest."""

    title: str
    entries: tuple[Entry, ...]
    codes: tuple[int, ...]


def lay_out(features: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Place embeddings in a plane: PCA to 50 dimensions, then t-SNE.

    features: (N, D) unit vectors, N >= 4. seed: same seed, same machine: same plane.
    Returns (N, 2). Neighbors stay neighbors; distances between groups mean nothing.
    Source: van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 2008; perplexity 30, or
    (N - 1) / 3 where that is less.
    """
    count = len(features)
    if count < 4:
        raise ValueError(f"a map needs at least 4 crops, not {count}")
    if np.ptp(features, axis=0).max() < _ALIKE:  # PCA and t-SNE would divide by the spread
        return np.zeros((count, 2), np.float32)
    kept = min(_DIMENSIONS, count, features.shape[1])
    with threadpool_limits(1):  # sums over threads come in another order each time
        reduced = PCA(kept, svd_solver="full").fit_transform(features.astype(np.float64))
        tsne = TSNE(
            perplexity=min(_PERPLEXITY, (count - 1) / 3), init="pca", random_state=seed, n_jobs=1
        )
        return np.asarray(tsne.fit_transform(reduced), np.float32)


def choose_rows(count: int, most: int, seed: int) -> NDArray[np.int64]:
    """Up to `most` of `count` rows, drawn by seed, in order."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def legend(title: str, codes: NDArray[np.int64], names: Sequence[str], rest: str) -> Legend:
    """Give the most frequent codes colors and signs.

    codes: (N,) int64; negative ones belong to the rest. names: of each code from 0. rest: what
    the gray rest is called; it comes last, and is left out where there is none.
    """
    values, counts = np.unique(codes[codes >= 0], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:COLORED]
    chosen = [int(values[i]) for i in order]
    entries = [
        Entry(f"{names[code]} ({counts[i]})", COLORS[n % len(COLORS)], sign, marker)
        for n, (i, code) in enumerate(zip(order, chosen, strict=True))
        for marker, sign in [_SIGNS[n // len(COLORS)]]
    ]
    left = int((~np.isin(codes, chosen)).sum())
    if left:
        entries.append(Entry(f"{rest} ({left})", GRAY, "•", "o"))
        chosen.append(-1)
    return Legend(title, tuple(entries), tuple(chosen))


def draw_map(places: NDArray[np.float32], codes: NDArray[np.int64], key: Legend) -> bytes:
    """Draw crops as a legend says, on no ground. Returns a PNG file.

    places: (N, 2). codes: (N,) as given to `legend`.
    """
    figure = Figure(figsize=(5.2, 4.4), layout="constrained")
    axis = figure.subplots()
    axis.set_axis_off()
    colored = [code for code in key.codes if code >= 0]
    shown = np.where(np.isin(codes, colored), codes, -1)
    # the rest lies below, and smaller groups above larger ones
    for code, entry in sorted(zip(key.codes, key.entries, strict=True), key=lambda e: e[0] >= 0):
        at = places[shown == code]
        size = 5 if code < 0 else 16
        axis.scatter(at[:, 0], at[:, 1], s=size, c=entry.color, marker=entry.marker, linewidths=0)
    if len(places):
        low, high = places.min(0), places.max(0)
        margin = 0.03 * np.maximum(high - low, 1e-6)
        axis.set_xlim(low[0] - margin[0], high[0] + margin[0])
        axis.set_ylim(low[1] - margin[1], high[1] + margin[1])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, transparent=True, metadata={"Software": None})
    return buffer.getvalue()
