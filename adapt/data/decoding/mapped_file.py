"""Decoded crops in a file: mapped into memory instead of held there, and found by --resume.

A file holds the pixels of all crops, then a description in JSON, then its length in 8 bytes. It
has no name until it is complete, so that a process that crashes leaves nothing behind; then it is
in the run folder, and belongs to that run alone. The system keeps as much of it in memory as there
is room for.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from adapt.data.decoding.decode import DecodedCrops, fingerprint_of
from adapt.runtime.disk_arrays import Scratch
from adapt.types import CropSet, Dropped
from models.files import sync_directory
from models.image import Preprocessing
from models.wording import plural

log = logging.getLogger("resight")
_LENGTH = 8


class MappedCrops:
    """CropAllocator on disk for one set of crops while it is read, and its name afterwards."""

    def __init__(self, out: Path) -> None:
        """out: run folder, which need not exist yet."""
        self._disk = Scratch(out)
        self._file: BinaryIO | None = None

    def allocate(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """An array of uint8 in a file without a name; it ends with the process unless it is kept.

        Raises RunError when the disk has no room for all of it.
        """
        size = int(np.prod(shape))
        if not size:
            return np.empty(shape, np.uint8)
        self._file = self._disk.file(size)
        return np.asarray(np.memmap(self._file, np.uint8, "r+", shape=shape))

    def describe(self, data: DecodedCrops, made_by: Mapping[str, Any]) -> Path:
        """Write the description behind the pixels; returns a path for other processes.

        The path is valid as long as this process has the file open. On a full disk nothing is
        written: the path is then the null device, and --resume decodes again.
        data: crops whose pixels are at the start of `allocate`. made_by: the settings they were
        made with, see `kept_crops`.
        """
        if self._file is None:
            return Path(os.devnull)
        crops, file = data.crops, self._file.fileno()
        told = {
            "made_by": made_by,
            "shape": data.images.shape,
            "fingerprint": crops.fingerprint,
            "keys": [sample.key for sample in crops.samples],
            "dropped": [[d.key, d.reason, d.image] for d in crops.dropped],
            "thinned": crops.thinned,
        }
        content = json.dumps(told).encode()
        try:
            os.ftruncate(file, data.images.nbytes)
            os.pwrite(file, content + len(content).to_bytes(_LENGTH), data.images.nbytes)
        except OSError as error:
            log.warning("decoded crops are not kept (%s): --resume decodes again", error.strerror)
            self._file = None
            return Path(os.devnull)
        return Path(f"/proc/{os.getpid()}/fd/{file}")

    def keep(self, path: Path) -> None:
        """Give the file a name; where the system cannot, the run continues without it."""
        if self._file is None:
            return
        try:
            os.fsync(self._file.fileno())
            path.unlink(missing_ok=True)
            _name(self._file.fileno(), path)
        except OSError as error:
            log.warning("%s is not kept (%s): --resume decodes again", path, error.strerror)


def kept_crops(path: Path, listing: CropSet, made_by: Mapping[str, Any]) -> DecodedCrops | None:
    """The crops that `MappedCrops.keep` named, read-only, if decoding would give the same.

    Every file of the listing is read and hashed; only those that could not be decoded are decoded.
    listing: in which the crops were found. made_by: has to be equal.
    Returns None when there is no such file, when anything has changed, or, with a warning, when it
    is damaged: the crops can be decoded again.
    """
    try:
        told, start = _description(path)
        shape = tuple(told["shape"])
        if int(np.prod(shape)) != start or len(told["keys"]) != shape[0]:
            raise ValueError(f"{start} bytes of pixels, {len(told['keys'])} names, shape {shape}")
        if told["made_by"] != json.loads(json.dumps(made_by)):
            return None
        dropped = tuple(Dropped(*each) for each in told["dropped"])
        size = Preprocessing(**made_by["preprocessing"])
        if fingerprint_of(listing, size, dropped) != told["fingerprint"]:
            return None
        by_key = {sample.key: sample for sample in listing.samples}
        crops = replace(
            listing,
            samples=tuple(by_key[key] for key in told["keys"]),
            dropped=dropped,
            fingerprint=told["fingerprint"],
            thinned=told["thinned"],
        )
        images = np.asarray(np.memmap(path, np.uint8, "r", shape=shape))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, RecursionError, TypeError) as error:
        if path != Path(os.devnull):
            log.warning("%s is damaged (%s): decoding the crops again", path, error)
        return None
    log.info("%s: %s as they were decoded", listing.root, plural(len(crops), "crop"))
    return DecodedCrops(crops, images)


def _description(path: Path) -> tuple[dict[str, Any], int]:
    """The description, and where it begins. Raises OSError, ValueError."""
    with path.open("rb") as file:
        end = file.seek(-_LENGTH, os.SEEK_END)
        start = end - int.from_bytes(file.read(_LENGTH))
        file.seek(start)
        return dict(json.loads(file.read(end - start))), start


def _name(file: int, path: Path) -> None:
    descriptors = os.open("/proc/self/fd", os.O_RDONLY)
    try:
        os.link(str(file), path, src_dir_fd=descriptors, follow_symlinks=True)
    finally:
        os.close(descriptors)
    sync_directory(path.parent)
