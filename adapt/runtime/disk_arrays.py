"""Arrays in files without a name: gone with the process, mapped instead of held in memory.

The system keeps as much of them in memory as there is room for, and takes it back when it needs it.
"""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from adapt.errors import WriteError


class Scratch:
    """CropAllocator for arrays on the disk of a folder, which need not be there yet."""

    def __init__(self, folder: Path) -> None:
        """Files are made in the folder, or in the nearest one above it that is there."""
        above = (folder.absolute(), *folder.absolute().parents)
        self._folder = next(path for path in above if path.is_dir())

    def file(self, size: int) -> BinaryIO:
        """A file of so many bytes; where the system knows such files it can be named later.

        Raises WriteError when the disk has no room for all of it: a mapped file that turns out to
        have none would end the process.
        """
        try:
            file = _nameless(self._folder)
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise WriteError(
                f"{self._folder} has no room for {size / 1e9:.1f} GB ({error.strerror}): make room "
                "there, or write to another disk (--out; where a command has none, TMPDIR)"
            ) from error
        return file

    def table(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A float32 array of zeros."""
        if 0 in shape:
            return np.empty(shape, np.float32)
        with self.file(4 * math.prod(shape)) as file:
            return np.asarray(np.memmap(file, np.float32, "r+", shape=shape))


def _nameless(folder: Path) -> BinaryIO:
    try:
        return os.fdopen(os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666), "r+b")
    except (AttributeError, OSError):
        return tempfile.TemporaryFile(dir=folder)
