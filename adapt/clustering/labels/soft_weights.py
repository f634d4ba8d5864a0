"""Pseudo labels as a weight for each cluster, hard or soft.

Shape suffixes: B images, K clusters, D feature dimensions. Outliers have weight 0 everywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from adapt.types import OUTLIER

MIN_SQUARED_TO_CENTER = 1e-3
"""Squared distances are clamped here: an image on its center would weigh infinitely much."""


def soft_weights(
    feat_BD: NDArray[np.float32],
    center_KD: NDArray[np.float32],
    label_B: NDArray[np.int64],
    *,
    epsilon: float,
    normalize: bool = False,
) -> NDArray[np.float32]:
    """Weigh each cluster by how near its center is, and the image's own more.

        w_ik = 1 / (K |f_i - C_k|^2) + epsilon [k = y_i]

    Args:
        feat_BD: (B, D) of unit length: the scale of the distances decides how soft labels are.
        center_KD: (K, D) of unit length.
        label_B: (B,) 0..K-1, or -1 for outliers.
        epsilon: least weight of the own cluster, in [0, 1].
        normalize: scale each image's weights to sum 1; in the paper they need not.

    Returns:
        (B, K) float32 >= 0.

    Raises:
        ValueError: shapes do not fit, or epsilon is out of range.

    Source: DAAL (AAAI 2020), equation 4.
    """
    dimensions = center_KD.shape[1:]
    if feat_BD.ndim != 2 or center_KD.ndim != 2 or feat_BD.shape[1:] != dimensions:
        raise ValueError(f"features {feat_BD.shape} and centers {center_KD.shape} do not fit")
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon must be in [0, 1], got {epsilon}")
    own_BK = one_hot_weights(label_B, len(center_KD))
    if len(own_BK) != len(feat_BD):
        raise ValueError(f"{len(label_B)} labels do not fit {len(feat_BD)} features")
    lengths = (feat_BD**2).sum(1)[:, None] + (center_KD**2).sum(1)
    squared_BK = np.maximum(lengths - 2 * feat_BD @ center_KD.T, MIN_SQUARED_TO_CENTER)
    weight_BK = 1 / (len(center_KD) * squared_BK) + epsilon * own_BK
    if normalize:
        weight_BK /= weight_BK.sum(axis=1, keepdims=True)
    return np.asarray(weight_BK * (label_B != OUTLIER)[:, None], np.float32)


def one_hot_weights(
    label_B: NDArray[np.int64], clusters: int, smoothing: float = 0.0
) -> NDArray[np.float32]:
    """Weigh the own cluster only, or share some of its weight out evenly (LSR).

        w_ik = (1 - smoothing) [k = y_i] + smoothing / K

    Args:
        label_B: (B,) 0..K-1, or -1 for outliers.
        clusters: K.
        smoothing: in [0, 1).

    Returns:
        (B, K) float32; rows sum to 1, those of outliers to 0.

    Raises:
        ValueError: a label is not below K, or smoothing is out of range.

    Source: DAAL (AAAI 2020), table 4, rows "Hard-Label" and "LSR" (Szegedy et al., CVPR 2016).
    """
    if label_B.ndim != 1 or label_B.max(initial=OUTLIER) >= clusters:
        raise ValueError(f"labels {label_B.shape} are not (B,) below {clusters}")
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
    own_BK = label_B[:, None] == np.arange(clusters)
    kept_B1 = (label_B != OUTLIER)[:, None]
    return np.asarray(((1 - smoothing) * own_BK + smoothing / clusters) * kept_B1, np.float32)


def weight_figures(weight_BK: NDArray[np.float32], label_B: NDArray[np.int64]) -> dict[str, float]:
    """Tell how soft labels are, for logs: over the images that are in a cluster, if any are.

    weight_sum: mean sum of an image's weights. own_share: the own cluster's part of it, on
    average; 1 for hard labels.
    """
    kept = np.flatnonzero(label_B != OUTLIER)
    if not len(kept):
        return {}
    sum_B = weight_BK[kept].sum(axis=1)
    own_B = weight_BK[kept, label_B[kept]]
    return {"weight_sum": float(sum_B.mean()), "own_share": float((own_B / sum_B).mean())}
