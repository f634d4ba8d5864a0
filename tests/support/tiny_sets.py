"""Tiny labelled sets on disk."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def write_market(
    root: Path, *, persons: int = 6, cameras: int = 2, each: int = 2, seed: int = 0
) -> Path:
    """Write a Market-1501-style set of noisy one-colour people; gives `root`."""
    rng = np.random.default_rng(seed)
    for folder, people in (
        ("bounding_box_train", range(1, persons + 1)),
        ("query", range(101, 104)),
        ("bounding_box_test", range(101, 104)),
    ):
        (root / folder).mkdir(parents=True)
        for person in people:
            colour = np.random.default_rng(person).integers(0, 256, 3)
            for camera in range(1, cameras + 1):
                for frame in range(each):
                    noise = rng.normal(0, 12, (40, 20, 3)) + 15 * camera
                    image = np.clip(colour + noise, 0, 255).astype(np.uint8)
                    file = root / folder / f"{person:04d}_c{camera}s1_{frame:06d}_00.png"
                    assert cv2.imwrite(str(file), image)
    return root
