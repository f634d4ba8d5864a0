"""Finds the published sets below a folder of data sets, under their usual names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from adapt.data.catalog.folders import labelled_splits
from adapt.errors import DataError, NoImagesError

SetName = Literal["market", "duke", "msmt17"]

FOLDER_NAMES: dict[SetName, tuple[str, ...]] = {
    "market": ("Market-1501-v15.09.15", "market1501", "Market-1501"),
    "duke": ("DukeMTMC-reID", "dukemtmc", "dukemtmcreid"),
    "msmt17": ("MSMT17_V1", "MSMT17", "MSMT17_V2"),
}
"""In the order they are looked for; case does not matter."""


def find_set(data_root: Path, name: SetName) -> Path:
    """The folder of a published set: one of its names in `data_root`, or in another of them.

    Raises NoImagesError that lists what was looked for where, and which folders lacked what;
    DataError when a folder cannot be read.
    """
    try:
        return _find(data_root, name)
    except OSError as error:
        raise DataError(
            f"{error.filename or data_root} cannot be read: {error.strerror}; allow this user to "
            "read it, or give another folder of data sets"
        ) from error


def _find(data_root: Path, name: SetName) -> Path:
    if not data_root.is_dir():
        raise NoImagesError(f"{data_root} is not a folder; give the one that holds the data sets")
    names = FOLDER_NAMES[name]
    outer = list(_entries(data_root, names))
    incomplete = []
    for path in (*outer, *(inner for folder in outer for inner in _entries(folder, names))):
        missing = {"train", "query", "gallery"} - labelled_splits(path)
        if not missing:
            return path
        incomplete.append(f"{path} has no {', '.join(sorted(missing))}")
    found = f"; {'; '.join(incomplete)} (docs/data.md)" if incomplete else ""
    raise NoImagesError(
        f"no {name} in {data_root}: looked for the folders {', '.join(names)}, there and one in "
        f"another{found}"
    )


def _entries(folder: Path, names: tuple[str, ...]) -> Iterator[Path]:
    """Folders in `folder` that have one of the names, in the names' order."""
    entries = sorted(path for path in folder.iterdir() if path.is_dir())
    for name in names:
        yield from (path for path in entries if path.name.lower() == name.lower())
