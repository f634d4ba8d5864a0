"""The image files below a folder, by their names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from adapt.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


@dataclass(frozen=True)
class ImageFiles:
    """What lies below a folder, in sorted order.

    images: files whose suffix is in `IMAGE_SUFFIXES`. others: all other files.
    """

    images: tuple[Path, ...]
    others: tuple[Path, ...]


def image_files(folder: Path) -> ImageFiles:
    """Find the files below a folder; hidden files and folders are left out.

    Links to files count, broken ones too: reading them says what is wrong. Links to folders are
    not entered.
    Raises DataError when a folder cannot be read: its crops would be missing without a word.
    """
    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        visible = (Path(parent, name) for name in names if not name.startswith("."))
        try:
            found += [path for path in visible if path.is_file() or path.is_symlink()]
        except OSError as error:
            _refuse(error)
    found.sort()
    images = tuple(path for path in found if path.suffix.lower() in IMAGE_SUFFIXES)
    others = tuple(path for path in found if path.suffix.lower() not in IMAGE_SUFFIXES)
    return ImageFiles(images, others)


def _refuse(error: OSError) -> NoReturn:
    raise DataError(
        f"{error.filename} cannot be read ({error.strerror}): its crops would be missing; allow "
        "reading it, or move it elsewhere"
    ) from error
