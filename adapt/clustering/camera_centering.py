"""Camera-centered features."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from adapt.errors import NonFiniteFeaturesError
from adapt.types import FloatAllocator, allocate_floats

MIN_CENTERED_LENGTH = 1e-6
"""A difference from the mean shorter than this has no usable direction."""

CENTERING_ROWS = 4096
"""Rows held in float64 at a time: features may be gigabytes, on disk."""


def center_cameras(
    features: NDArray[np.floating],
    cameras: NDArray[np.int64],
    allocate: FloatAllocator = allocate_floats,
) -> NDArray[np.float32]:
    """Subtract each camera's mean feature, so that images compare across cameras.

        g_i = f_i - mean of f_j over c_j = c_i,    returned: g_i / |g_i|

    A camera with one image has itself as mean: the mean of all images is taken instead. An image
    that equals its mean even so keeps its own direction, f_i / |f_i|: no row becomes zero.

    Args:
        features: (N, D) floating point.
        cameras: (N,) camera codes.
        allocate: allocates the result.

    Returns:
        (N, D) float32, rows of length 1 (a zero row of `features` may stay zero).

    Raises:
        NonFiniteFeaturesError: features hold NaN or infinity, which a mean would spread.
        ValueError: the lengths differ.
    """
    if features.ndim != 2 or cameras.shape != features.shape[:1]:
        raise ValueError(f"cameras {cameras.shape} do not fit features {features.shape}")
    codes = np.unique(cameras, return_inverse=True)[1]
    means = _means(features, codes)
    centered = allocate(features.shape)
    for rows in _blocks(len(features)):
        original = features[rows].astype(np.float64)
        block = original - means[codes[rows]]
        still = np.linalg.norm(block, axis=1) < MIN_CENTERED_LENGTH
        block[still] = original[still]
        centered[rows] = block / np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-12)
    return centered


def _means(features: NDArray[np.floating], codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """(C, D) mean of each camera; of all images for a camera that has one."""
    count = np.bincount(codes)
    sums = np.zeros((len(count), features.shape[1]))
    bad = []
    for rows in _blocks(len(features)):
        block = features[rows].astype(np.float64)
        with np.errstate(over="ignore"):  # beyond float32 is infinity, too
            finite = np.isfinite(block.astype(np.float32)).all(axis=1)
        bad.extend(rows.start + np.flatnonzero(~finite))
        for code in np.unique(codes[rows]):
            sums[code] += block[codes[rows] == code].sum(axis=0)
    if bad:
        raise NonFiniteFeaturesError(int(bad[0]), len(bad))
    means: NDArray[np.float64] = sums / count[:, None]
    means[count == 1] = sums.sum(axis=0) / max(len(features), 1)
    return means


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(start, start + CENTERING_ROWS) for start in range(0, rows, CENTERING_ROWS))
