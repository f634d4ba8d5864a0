"""Files of `resight cluster`: features, cameras, labels."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from adapt.errors import DataError
from adapt.types import PseudoLabels
from models.files import atomic_file, draft_path
from models.text import nfc
from models.wording import reason_of


def read_features(path: Path) -> NDArray[np.floating]:
    """Map a .npy file of (N, D) floating point features; nothing is read before it is needed.

    Raises DataError: not an .npy file, pickled objects, or of another shape or type.
    """
    found = _load(path)
    if found.ndim != 2 or not np.issubdtype(found.dtype, np.floating):
        raise DataError(
            f"{path} holds {found.dtype} of shape {found.shape}, not floating point of (N, D)"
        )
    return cast(NDArray[np.floating], found)


def read_cameras(path: Path | None, images: int) -> NDArray[np.int64]:
    """Read (N,) camera codes: .npy of integers or strings, or UTF-8 text with one name per line.

    Blanks around a name, its Unicode form and blank lines at the end do not count. Without a file
    there is one camera.

    Raises DataError: unreadable, or not one camera per image.
    """
    if path is None:
        return np.zeros(images, np.int64)
    if path.suffix == ".npy":
        names = _load(path)
    else:
        try:
            text = path.read_text("utf-8-sig")  # editors on Windows put a mark in front
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read: {reason_of(error)}") from None
        lines = text.rstrip().split("\n") if text.strip() else []
        names = np.array([line.strip() for line in lines], str)
        if (names == "").any():
            empty = int(np.argmax(names == "")) + 1
            raise DataError(f"{path} names no camera in line {empty}; give one name per line")
    if names.shape != (images,) or names.dtype.kind not in "iuUS":
        raise DataError(
            f"{path} names the cameras of {names.shape} images ({names.dtype}), but there are "
            f"{images} features: give one integer or name for each"
        )
    if names.dtype.kind == "U":
        names = np.array([nfc(name) for name in names.tolist()])
    _, codes = np.unique(names, return_inverse=True)
    return np.asarray(codes, np.int64)


def check_place(path: Path, *inputs: Path | None) -> None:
    """Raise DataError unless labels can be written there, before the work begins.

    inputs: files that are read, which it must not replace.
    """
    try:
        if path.is_dir():
            raise DataError(f"{path} cannot be written: it is a folder; name a file")
        if path.exists() and not path.is_file():
            # A file would take the place of a device such as /dev/null.
            raise DataError(f"{path} cannot be written: it is not an ordinary file; name another")
        for read in inputs:
            if read is not None and path.exists() and read.exists() and path.samefile(read):
                raise DataError(
                    f"{path} is read: writing labels there would destroy it; name another"
                )
        draft = draft_path(path)
        draft.touch(exist_ok=False)
        draft.unlink()
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from None


def write_labels(path: Path, labels: PseudoLabels) -> None:
    """Write (N,) int64 labels as .npy, all or nothing.

    Raises DataError: the folder is missing or full.
    """
    try:
        with atomic_file(path) as draft, draft.open("xb") as file:
            np.save(file, labels.labels)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {reason_of(error)}") from None


def _load(path: Path) -> NDArray[np.generic]:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        foreign = any(word in str(error) for word in ("pickle", "Python objects"))
        why = "text or Python objects" if foreign else reason_of(error)
        raise DataError(f"{path} is not a .npy file that can be read: {why}") from None
    if not isinstance(found, np.ndarray):
        raise DataError(f"{path} holds several arrays; give a .npy file of one")
    return found
