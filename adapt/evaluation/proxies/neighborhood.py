"""Proxies of each crop's neighbors: density, reciprocity across cameras, camera bias.

Crops of one track are left out of each other's neighbors: they are trivially found, and hide
what is beyond them.

Shape suffixes: N crops, B crops of a block, D embedding dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapt.clustering.graph.camera_bias import camera_bias_of_each
from adapt.evaluation.protocols import BLOCK_ENTRIES
from adapt.evaluation.proxies.sightings import ProxyValue, Sightings

TEMPERATURE = 0.05
"""Of the softmax over similarities (Saito et al., section 4)."""

NONE = -1
"""Neighbor of a crop that has none."""


@dataclass(frozen=True)
class Neighborhood:
    """What one pass over all similarities gives.

    entropy: (N,) float64, nats, of the softmax over the similarities to all others.
    nearest: (N,) int64 most similar crop. cross_camera: (N,) the most similar of another camera.
    `NONE` where there is none; of equal similarities the first crop.
    """

    entropy: NDArray[np.float64]
    nearest: NDArray[np.int64]
    cross_camera: NDArray[np.int64]


def neighborhood(
    feature_ND: NDArray[np.float32], sightings: Sightings, *, block_entries: int = BLOCK_ENTRIES
) -> Neighborhood:
    """Find neighbors and entropies by blocks; exact but for float32 rounding.

    Args:
        feature_ND: rows of length 1.
        sightings: of the same crops.
        block_entries: similarities to hold at a time; at least one row is.

    Raises:
        ValueError: the lengths differ.
    """
    total = len(sightings)
    if len(feature_ND) != total:
        raise ValueError(f"{len(feature_ND)} features do not fit {total} crops")
    entropy = np.zeros(total)
    nearest, across = np.full(total, NONE), np.full(total, NONE)
    groups, cameras = sightings.groups, sightings.cameras
    rows = max(1, block_entries // max(1, total))
    for start in range(0, total, rows):
        part = slice(start, start + rows)
        likeness_BN = feature_ND[part] @ feature_ND.T
        likeness_BN[groups[part, None] == groups] = -np.inf
        entropy[part] = _entropy(likeness_BN / np.float32(TEMPERATURE))
        nearest[part] = _argmax_similar(likeness_BN)
        likeness_BN[cameras[part, None] == cameras] = -np.inf
        across[part] = _argmax_similar(likeness_BN)
    return Neighborhood(entropy, nearest, across)


def neighborhood_density(found: Neighborhood) -> ProxyValue:
    """Soft neighborhood density: how many others a crop is close to.

        P_ij = softmax over j of f_i . f_j / 0.05,    H_i = - sum_j P_ij ln P_ij,    mean of H_i

    Here less is better. The paper takes more, since each of its few classes holds a large share of
    the samples, all of which should be near; a person has a few crops among thousands of other
    people's, and a model that spreads its neighborhood over more than these takes people for each
    other. docs/gate.md has the measurement. It grows with the number of crops, and is largest,
    ln(N - 1), where all embeddings are alike.

    Returns:
        In [0, ln(N - 1)], nats; a part for each crop.

    Source: Saito et al., Tune it the Right Way: Unsupervised Validation of Domain Adaptation via
        Soft Neighborhood Density, ICCV 2021, equations 1 to 3; there f are the outputs of a
        classifier, which a re-identification model lacks, here its embeddings.
    """
    return ProxyValue.mean_of(found.entropy, np.arange(len(found.entropy)))


def mutual_neighbors(found: Neighborhood, sightings: Sightings) -> ProxyValue | None:
    """Share of crops whose nearest crop in another camera finds them back.

        j = most similar to i in cameras other than c_i,    k = most similar to j other than c_j
        part: 1 where k is i or of i's track, else 0

    Returns:
        In [0, 1], a part for each crop; None with one camera.

    Source: reciprocal neighbors are those that can be trusted: Zhong et al., CVPR 2017, section
        3.2. The share as a figure of a model is ours.
    """
    if sightings.camera_count < 2:
        return None
    groups, across = sightings.groups, found.cross_camera
    mutual = groups[across[across]] == groups
    return ProxyValue.mean_of(mutual.astype(np.float64), np.arange(len(sightings)))


def nearest_camera_bias(found: Neighborhood, sightings: Sightings) -> ProxyValue | None:
    """How much oftener than by chance the nearest crop is of the same camera.

        part: 1 where c_nearest(i) = c_i, else 0, less (n_{c_i} - l_i) / (N - l_i)

    with l_i the crops of i's track, which are not among its neighbors.

    Returns:
        In [-1, 1], a part for each crop; 0 by chance. None with one camera or one group.

    Source: `adapt.clustering.graph.camera_bias`, of one neighbor.
    """
    if sightings.camera_count < 2 or sightings.group_count < 2:
        return None
    crops = np.arange(len(sightings))
    own = np.bincount(sightings.groups)[sightings.groups]
    rank = np.stack([crops, found.nearest], axis=1)
    return ProxyValue.mean_of(camera_bias_of_each(rank, sightings.cameras, own), crops)


def _entropy(logit_BN: NDArray[np.float32]) -> NDArray[np.float64]:
    """(B,) entropy of the softmax of each row; entries at -inf take no part."""
    top = logit_BN.max(axis=1, keepdims=True)
    below = logit_BN - np.where(np.isfinite(top), top, 0)
    weight = np.exp(below)
    total = weight.sum(axis=1, dtype=np.float64)
    weighted = np.where(weight > 0, weight * np.where(weight > 0, below, 0), 0)
    lift = weighted.sum(axis=1, dtype=np.float64) / np.maximum(total, 1e-300)
    return np.where(total > 0, np.log(np.maximum(total, 1e-300)) - lift, 0.0)


def _argmax_similar(likeness_BN: NDArray[np.float32]) -> NDArray[np.int64]:
    """(B,) column of the largest entry of each row, `NONE` where all are at -inf."""
    best = likeness_BN.argmax(axis=1)
    top = np.take_along_axis(likeness_BN, best[:, None], axis=1)[:, 0]
    return np.where(np.isfinite(top), best, NONE)
