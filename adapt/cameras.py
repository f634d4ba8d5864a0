"""Camera-centred features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from adapt.errors import NonFiniteFeaturesError

SHORTEST = 1e-6
"""A difference from the mean shorter than this has no direction worth keeping."""


def center_cameras(
    features: NDArray[np.float32], cameras: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Take each camera's mean feature away, so that images compare across cameras.

        g_i = f_i - mean of f_j over c_j = c_i,    returned: g_i / |g_i|

    A camera with one image has itself as mean: the mean of all images is taken instead. An image
    that equals its mean even so keeps its own direction, f_i / |f_i|: no row becomes zero.

    Args:
        features: (N, D) floating point.
        cameras: (N,) camera codes.

    Returns:
        (N, D) float32, rows of length 1 (a zero row of `features` may stay zero).

    Raises:
        NonFiniteFeaturesError: features hold NaN or infinity, which a mean would spread.
        ValueError: the lengths differ.
    """
    if features.ndim != 2 or cameras.shape != features.shape[:1]:
        raise ValueError(f"cameras {cameras.shape} do not fit features {features.shape}")
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise NonFiniteFeaturesError(int(bad[0]), len(bad))
    original = features.astype(np.float64)
    centred = original.copy()
    for camera in np.unique(cameras):
        rows = cameras == camera
        mean = original[rows] if rows.sum() > 1 else original
        centred[rows] -= mean.mean(axis=0)
    still = np.linalg.norm(centred, axis=1) < SHORTEST
    centred[still] = original[still]
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return centred.astype(np.float32)
