"""Crops and contact sheets as JPEG or PNG that a page can hold."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from adapt.errors import DataError
from adapt.report.contact_sheet import contact_sheet
from adapt.types import CropSet

SHOWN_HEIGHT = 112
"""Pixels of a single crop on the page."""


def crop_uri(image: NDArray[np.uint8]) -> str:
    """A crop (H, W, 3) uint8 RGB as a data URI, `SHOWN_HEIGHT` pixels high."""
    width = max(1, round(image.shape[1] * SHOWN_HEIGHT / image.shape[0]))
    shown = cv2.resize(image, (width, SHOWN_HEIGHT), interpolation=cv2.INTER_LINEAR)
    return jpeg_uri(jpeg(np.asarray(shown, np.uint8)))


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """(H, W, 3) uint8 RGB as a JPEG file."""
    _, encoded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return encoded.tobytes()


def jpeg_uri(file: bytes) -> str:
    """A JPEG file as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(file).decode()


def png_uri(file: bytes) -> str:
    """A PNG file as a data URI."""
    return "data:image/png;base64," + base64.b64encode(file).decode()


def site_sheet(crops: CropSet, *, people: int, each: int) -> bytes:
    """Lay out some people of a labelled set, a row for each, cameras from left to right.

    people: how many, evenly spread over those whom every camera saw at least `each` times.
    each: crops of a person in each camera, the first ones.
    Returns a JPEG file. Raises DataError when nobody was seen so often by every camera.
    """
    seen: dict[int, list[list[Path]]] = {}
    for sample in crops.samples:
        cells = seen.setdefault(sample.person, [[] for _ in crops.cameras])
        cells[sample.camera].append(sample.path)
    whole = [p for p in sorted(seen) if all(len(cell) >= each for cell in seen[p])]
    if not whole:
        raise DataError(f"{crops.root}: nobody was seen {each} times by every camera")
    rows = np.unique(np.linspace(0, len(whole) - 1, people).round().astype(int))
    chosen = [path for row in rows for cell in seen[whole[row]] for path in cell[:each]]
    return jpeg(contact_sheet(chosen, columns=each * len(crops.cameras)))
