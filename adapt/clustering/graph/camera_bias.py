"""Whether images look like their camera rather than like their person."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def camera_bias(rank: NDArray[np.int32], cameras: NDArray[np.int64]) -> float:
    """Measure how much more often than by chance neighbors are of an image's own camera.

        mean over i of  share of i's neighbors with c_j = c_i  -  (n_{c_i} - 1) / (N - 1)

    Args:
        rank: (N, K) nearest neighbors of N images, the image itself first.
        cameras: (N,) camera codes.

    Returns:
        In [-1, 1]; 0 by chance, with one camera, and without neighbors. People seen by one camera
        only raise it, too.

    Raises:
        ValueError: the lengths differ.
    """
    each = camera_bias_of_each(rank, cameras)
    return float(each.mean()) if len(each) else 0.0


def camera_bias_of_each(
    rank: NDArray[np.integer],
    cameras: NDArray[np.int64],
    left_out: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Compute the camera bias of each image; `camera_bias` is their mean.

    Args:
        rank: (N, K) nearest neighbors of N images, the image itself first; with `left_out`, none
            of an image's others that were left out.
        cameras: (N,) camera codes.
        left_out: (N,) images of i's own camera that could not be its neighbors, i itself
            included; only i itself unless given. The chance is then (n_{c_i} - l_i) / (N - l_i).

    Returns:
        (N,) in [-1, 1].

    Raises:
        ValueError: the lengths differ.
    """
    if cameras.shape != (len(rank),) or (left_out is not None and left_out.shape != cameras.shape):
        raise ValueError(f"cameras {cameras.shape} do not fit {len(rank)} images")
    others = rank[:, 1:]
    if not others.size:
        return np.zeros(len(rank))
    same = (cameras[others] == cameras[:, None]).mean(axis=1)
    _, code, size = np.unique(cameras, return_inverse=True, return_counts=True)
    out = np.ones(len(cameras), np.int64) if left_out is None else left_out
    bias: NDArray[np.float64] = same - (size[code] - out) / np.maximum(len(cameras) - out, 1)
    return bias
