"""Pictures without people for the self-test of a bundle, which travels further than its data."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_SEED = 20200101


def make_self_test_images(height: int, width: int, count: int = 4) -> NDArray[np.uint8]:
    """Color fields with stripes and noise, no two alike, the same on every machine.

    Args:
        height, width: size in pixels.
        count: n >= 2.

    Returns:
        (n, height, width, 3) uint8.
    """
    rng = np.random.default_rng(_SEED)
    rows, columns = np.mgrid[0:height, 0:width]
    images = []
    for i in range(count):
        cells = rng.integers(0, 256, (2 + 2 * i, 1 + i, 3)).astype(np.uint8)
        flag = cv2.INTER_NEAREST if i % 2 else cv2.INTER_LINEAR
        field = cv2.resize(cells, (width, height), interpolation=flag).astype(np.float32)
        phase = 2 * np.pi * (columns * np.cos(i) + rows * np.sin(i)) / (4 + 4 * i)
        noise = rng.normal(0, 8 * (i + 1), (height, width, 3))
        image = field + 40 * np.sin(phase)[..., None] + noise
        images.append(np.clip(image, 0, 255).astype(np.uint8))
    return np.stack(images)
