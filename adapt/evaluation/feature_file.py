"""Reader of `resight evaluate --features`: embeddings of any model as one .npz file."""

from __future__ import annotations

import logging
import re
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapt.errors import DataError
from adapt.evaluation.protocols import REMEDY, UNKNOWN_CAMERA
from models.text import nfc

log = logging.getLogger("resight")

KEYS = (
    "query_features",
    "query_ids",
    "query_cameras",
    "gallery_features",
    "gallery_ids",
    "gallery_cameras",
)
NAMES = ("query_names", "gallery_names")
"""What crops are called, for a gallery that has the queries, too."""


@dataclass(frozen=True)
class RetrievalSet:
    """Queries and gallery as `adapt.evaluation.metrics.evaluate_ranking` takes them, in its order.

    features: (N, D) floating point; ids, cameras: (N,) int64, in one numbering for both sets.
    cameras are `UNKNOWN_CAMERA` where unknown. names: (N,) codes of the crops, likewise in one
    numbering; None where the file has none.
    """

    query_features: NDArray[np.floating]
    query_ids: NDArray[np.int64]
    query_cameras: NDArray[np.int64]
    gallery_features: NDArray[np.floating]
    gallery_ids: NDArray[np.int64]
    gallery_cameras: NDArray[np.int64]
    query_names: NDArray[np.int64] | None = None
    gallery_names: NDArray[np.int64] | None = None


def load_feature_file(path: Path, *, needs_cameras: bool = True) -> RetrievalSet:
    """Read queries and gallery from an .npz file.

    Args:
        path: a file with the arrays query_features, query_ids, query_cameras and gallery_
            likewise. They may have query_names and gallery_names. Identities, cameras and names
            are integers, or strings in both sets, of any Unicode form; -1, "-1" or "" is an
            identity or a camera that is not known.
        needs_cameras: refuse a file without cameras; else they are all unknown.

    Returns:
        The arrays, strings numbered alike in both sets.

    Raises:
        DataError: not an .npz file, arrays missing or damaged, or of unusable types. Pickled
            objects are never loaded.
    """
    arrays = _read(path, needs_cameras)
    features = {name: _floating(path, name, arrays[name]) for name in KEYS if "feat" in name}
    ids = _numbered(path, "ids", arrays)
    cameras = _numbered(path, "cameras", arrays)
    names = _numbered(path, "names", arrays) if NAMES[0] in arrays else (None, None)
    return RetrievalSet(
        query_features=features["query_features"],
        query_ids=ids[0],
        query_cameras=cameras[0],
        gallery_features=features["gallery_features"],
        gallery_ids=ids[1],
        gallery_cameras=cameras[1],
        query_names=names[0],
        gallery_names=names[1],
    )


def _read(path: Path, needs_cameras: bool) -> dict[str, NDArray[Any]]:
    if not zipfile.is_zipfile(path):
        state = "no such file"
        if path.exists():
            state = (
                "not an .npz file, or one that was cut off"
                if path.is_file()
                else "a folder, not an .npz file"
            )
        raise DataError(f"{path}: {state}; write one with numpy.savez, arrays {KEYS}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            _check_names(path, archive.files, needs_cameras)
            arrays = {name: archive[name] for name in (*KEYS, *NAMES) if name in archive.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); save plain arrays of numbers or strings with "
            "numpy.savez"
        ) from error
    for side in ("query", "gallery"):
        unknown = np.full(arrays[f"{side}_ids"].shape, UNKNOWN_CAMERA)
        arrays.setdefault(f"{side}_cameras", unknown)
    return arrays


def _check_names(path: Path, held: Sequence[str], needs_cameras: bool) -> None:
    """Raise DataError where arrays are missing. held: names of those that are there."""
    cameras = [name for name in KEYS if name.endswith("cameras")]
    without = not needs_cameras and not set(cameras) & set(held)
    needed = [name for name in KEYS if not (without and name in cameras)]
    needed += NAMES if set(NAMES) & set(held) else ()
    missing = [name for name in needed if name not in held]
    if missing:
        unknown = f"; where no camera is known, {REMEDY}" if set(cameras) <= set(missing) else ""
        raise DataError(
            f"{path}: arrays missing: {', '.join(missing)}; it holds "
            f"{', '.join(held) or 'none'}{unknown}"
        )


def _floating(path: Path, name: str, array: NDArray[Any]) -> NDArray[np.floating]:
    if array.dtype.kind in "iu":
        return array.astype(np.float32)
    if array.dtype.kind != "f":
        raise DataError(f"{path}: {name} must be numbers, got {array.dtype}")
    return array


def _texts(path: Path, name: str, array: NDArray[Any]) -> list[str]:
    """The strings of an array, in NFC. Raises DataError where bytes are not UTF-8."""
    try:
        texts = [x.decode() if isinstance(x, bytes) else x for x in array.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: {name} holds bytes that are not UTF-8 ({error.object!r}); write strings"
        ) from None
    if around := next((text for text in texts if text != text.strip()), None):
        raise DataError(f"{path}: {name} holds {around!r}, with blanks around it; take them off")
    return [nfc(text) for text in texts]


def _warn_of_spellings(path: Path, cameras: Collection[str]) -> None:
    """Cameras that differ by case or zeros alone: a query would be found in its own camera."""
    spelled: dict[str, str] = {}
    for name in sorted(cameras):
        plain = re.sub(r"(?<![0-9])0+(?=[0-9])", "", name.casefold())
        if (other := spelled.setdefault(plain, name)) != name:
            log.warning(
                "%s: cameras %r and %r count as two; spell a camera alike everywhere",
                *(path, other, name),
            )


def _numbered(
    path: Path, what: str, arrays: Mapping[str, NDArray[Any]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`query_<what>` and `gallery_<what>` as integers in one numbering."""
    query, gallery = arrays[f"query_{what}"], arrays[f"gallery_{what}"]
    kinds = query.dtype.kind + gallery.dtype.kind
    if set(kinds) <= set("US"):
        names = np.array(
            [
                *_texts(path, f"query_{what}", query),
                *_texts(path, f"gallery_{what}", gallery),
            ],
            str,
        )
        if what == "cameras":
            _warn_of_spellings(path, set(names.tolist()))
        codes = np.unique(names, return_inverse=True)[1].astype(np.int64)
        if what != "names":
            codes[(names == "-1") | (names == "")] = -1
        first, second = np.split(codes, [query.size])
        return first.reshape(query.shape), second.reshape(gallery.shape)
    if set(kinds) <= set("iuf") and _whole(query) and _whole(gallery):
        _refuse_large(path, what, query, gallery)
        return query.astype(np.int64), gallery.astype(np.int64)
    raise DataError(
        f"{path}: query_{what} ({query.dtype}) and gallery_{what} ({gallery.dtype}) must both be "
        "whole numbers or both be strings; -1 stands for what is not known"
    )


def _whole(numbers: NDArray[Any]) -> bool:
    return bool(np.isfinite(numbers).all() and (numbers == np.floor(numbers)).all())


def _refuse_large(path: Path, what: str, *arrays: NDArray[Any]) -> None:
    """Raise DataError where numbers would become others: two people one, or somebody junk."""
    for numbers in arrays:
        limit = 2**53 if numbers.dtype.kind == "f" else 2**63 - 1
        if numbers.size and (int(numbers.max()) > limit or int(numbers.min()) < -limit):
            raise DataError(
                f"{path}: {what} of {numbers.dtype} go beyond {limit}, where they cannot be told "
                "apart; number them anew, or save strings"
            )
