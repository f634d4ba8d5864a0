"""Many crops in one picture, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from adapt.errors import ConfigError, DataError
from models.errors import ImageError
from models.image import decode
from models.wording import reason_of


def _read(source: Path | NDArray[np.uint8]) -> NDArray[np.uint8]:
    if isinstance(source, np.ndarray):
        return source
    try:
        return decode(source.read_bytes())
    except (OSError, ImageError) as error:
        raise DataError(
            f"{source} cannot be read: {reason_of(error)}; leave it out of the contact sheet"
        ) from error


def contact_sheet(
    images: Sequence[Path | NDArray[np.uint8]],
    columns: int,
    *,
    height: int = 128,
    width: int = 64,
    gap: int = 2,
) -> NDArray[np.uint8]:
    """Lays crops out row by row on white.

    Args:
        images: files, or (H, W, 3) uint8 RGB arrays; each is resized to height x width.
        columns: crops per row, >= 1.
        gap: white pixels between crops.
    Returns:
        (rows * (height + gap) - gap, columns * (width + gap) - gap, 3) uint8 RGB.
    Raises:
        ConfigError: no images, or columns < 1.
        DataError: a file is missing or not an image.
    """
    if not images or columns < 1:
        raise ConfigError("a contact sheet needs at least one image and one column")
    rows = -(-len(images) // columns)
    size = (rows * (height + gap) - gap, columns * (width + gap) - gap, 3)
    sheet = np.full(size, 255, np.uint8)
    for index, source in enumerate(images):
        image = _read(source)
        if image.shape[:2] != (height, width):
            image = np.asarray(cv2.resize(image, (width, height)), np.uint8)
        y, x = (index // columns) * (height + gap), (index % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = image
    return sheet
