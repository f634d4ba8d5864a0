"""Whether images look like their camera rather than like their person."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def camera_bias(rank: NDArray[np.int32], cameras: NDArray[np.int64]) -> float:
    """Measure how much oftener than by chance neighbours come from an image's own camera.

        mean over i of  share of i's neighbours with c_j = c_i  -  (n_{c_i} - 1) / (N - 1)

    Args:
        rank: (N, K) nearest neighbours of N images, the image itself first.
        cameras: (N,) camera codes.

    Returns:
        In [-1, 1]; 0 by chance, with one camera, and without neighbours. People seen by one camera
        only raise it, too.

    Raises:
        ValueError: the lengths differ.
    """
    if cameras.shape != (len(rank),):
        raise ValueError(f"cameras {cameras.shape} do not fit {len(rank)} images")
    others = rank[:, 1:]
    if not others.size:
        return 0.0
    same = (cameras[others] == cameras[:, None]).mean(axis=1)
    _, code, size = np.unique(cameras, return_inverse=True, return_counts=True)
    return float((same - (size[code] - 1) / (len(cameras) - 1)).mean())
