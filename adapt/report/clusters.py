"""Clusters of a run's last round: which to look at, and what cameras saw of them.

Shapes: N crops, K clusters, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapt.data.decoding.decode import DecodedCrops
from adapt.report.contact_sheet import contact_sheet
from adapt.report.pictures import jpeg
from adapt.types import OUTLIER
from models.wording import plural

SHOWN = 12
"""Crops on the sheet of one cluster."""


@dataclass(frozen=True)
class CameraRow:
    """One camera: its crops, how many are in clusters, and in how many clusters it is."""

    name: str
    crops: int
    clustered: int
    clusters: int


@dataclass(frozen=True)
class Sheet:
    """Some crops of a cluster. image: JPEG file. caption: how many crops, of which cameras."""

    image: bytes
    caption: str


def choose_clusters(
    labels: NDArray[np.int64], feat_ND: NDArray[np.float32] | None, each: int
) -> dict[str, list[int]]:
    """Clusters to look at: `each` of the largest, the smallest and the most mixed, each one once.

    Most mixed are those whose crops are least alike to the model: whose mean similarity to their
    center, the length of the mean of unit vectors squared, is lowest.
    labels: (N,). feat_ND: unit vectors; without them there is no most mixed.
    Returns kind -> cluster ids, worst or most extreme first, ties by id, without those of the kinds
    before it; there are none where all have been taken.
    """
    ids = np.arange(int(labels.max(initial=OUTLIER)) + 1)
    sizes = np.bincount(labels[labels != OUTLIER], minlength=len(ids))
    orders = {
        "largest": ids[np.argsort(-sizes, kind="stable")],
        "smallest": ids[np.argsort(sizes, kind="stable")],
    }
    if feat_ND is not None:
        likeness = mean_likeness(labels, feat_ND)
        orders["most mixed"] = ids[np.argsort(likeness, kind="stable")]
    chosen: dict[str, list[int]] = {}
    for kind, order in orders.items():
        taken = {i for found in chosen.values() for i in found}
        chosen[kind] = [int(i) for i in order if int(i) not in taken][:each]
    return chosen


def mean_likeness(labels: NDArray[np.int64], feat_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    """(K,) mean cosine similarity of two crops of each cluster, a crop with itself included.

    |mean of a cluster's unit vectors|^2 = mean over all pairs (i, j) of x_i . x_j
    """
    ids = range(int(labels.max(initial=OUTLIER)) + 1)
    centers = [feat_ND[labels == i].mean(axis=0, dtype=np.float64) for i in ids]
    return np.array([float(center @ center) for center in centers])


def camera_rows(
    labels: NDArray[np.int64], camera_N: NDArray[np.int64], names: Sequence[str]
) -> list[CameraRow]:
    """What clusters hold of each camera, in the order of `names`."""
    rows = []
    for code, name in enumerate(names):
        own = labels[camera_N == code]
        inside = own[own != OUTLIER]
        rows.append(CameraRow(name, len(own), len(inside), len(np.unique(inside))))
    return rows


def cameras_per_cluster(
    labels: NDArray[np.int64], camera_N: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(C,) number of clusters that 1, 2, ..., C cameras saw; C is the largest such number."""
    inside = labels != OUTLIER
    pairs = np.unique(np.stack([labels[inside], camera_N[inside]]), axis=1)
    return np.bincount(np.bincount(pairs[0]))[1:]


def draw_sheet(data: DecodedCrops, rows: NDArray[np.intp], seed: int) -> Sheet:
    """Lay out crops of one cluster in a row, camera by camera.

    rows: of the cluster's crops. Where there are more than `SHOWN`, some are drawn by seed.
    """
    codes = data.crops.camera_codes
    shown = np.random.default_rng(seed).permutation(rows)[:SHOWN]
    shown = shown[np.argsort(codes[shown], kind="stable")]
    image = contact_sheet([data.images[row] for row in shown], columns=len(shown))
    seen, counts = np.unique(codes[rows], return_counts=True)
    cameras = ", ".join(
        f"{data.crops.cameras[code]} {count}" for code, count in zip(seen, counts, strict=True)
    )
    some = f", {len(shown)} of them shown" if len(shown) < len(rows) else ""
    return Sheet(jpeg(image), f"{plural(len(rows), 'crop')}{some}; by camera: {cameras}")
