"""Image files on disk -> sightings to enroll."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from adapt.data.catalog.cameras import CameraPattern, cameras_by_path, find_cameras
from adapt.data.catalog.image_files import LeftOut, image_files, unlisted_images
from adapt.data.catalog.manifest import MANIFEST_TYPES, find_manifest, read_manifest
from adapt.errors import DataError
from models.text import nfc
from models.wording import one_line
from service.errors import BadSightingError
from service.types import NewSighting

MAX_FILE_BYTES = 64 * 1024 * 1024
"""A larger file cannot be a crop, and is not read."""

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")


@dataclass(frozen=True, slots=True)
class FileToEnroll:
    """One file to enroll.

    key: its path below the folder that was given, POSIX separators. camera: its camera; what is
    stored of both is in NFC. spelled: the camera in the spelling of which the id of its sighting is
    made, that of the path; "" where this is `camera`. track, time: of a manifest; without a time
    that of the file's last change counts, in seconds since 1970.
    """

    path: Path
    key: str
    camera: str
    spelled: str = ""
    track: str = ""
    time: float | None = None

    @property
    def place(self) -> str:
        """Its absolute path, links not followed."""
        return os.path.normpath(self.path.absolute())

    @property
    def identity(self) -> tuple[str, str]:
        """What the id of its sighting is made of: its camera as spelled, and its place."""
        return self.spelled or self.camera, self.place

    def read(self) -> NewSighting:
        """The sighting: its time and track, attribute `file`, and an id made of camera and
        absolute path, so that enrolling a file again, changed or not, replaces its sighting.

        Raises:
            OSError: the file cannot be read.
            BadSightingError: too large to be a crop, or its camera or time is not well formed.
        """
        status = self.path.stat()
        if status.st_size > MAX_FILE_BYTES:
            raise BadSightingError(
                f"{status.st_size} bytes are too many for a crop; send the crop alone"
            )
        image = self.path.read_bytes()
        identity = hashlib.sha256()
        for part in self.identity:
            identity.update(hashlib.sha256(os.fsencode(part)).digest())
        key = one_line(nfc(self.key.encode("utf-8", "replace").decode()))
        return NewSighting(
            image=image,
            camera=self.camera,
            track=self.track,
            id=identity.hexdigest()[:32],
            time=_time(status.st_mtime if self.time is None else self.time),
            attributes={"file": key[-1024:]},
        )


def _time(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError) as error:
        raise BadSightingError(f"its time of change is impossible ({error}); touch it") from error


@dataclass(frozen=True, slots=True)
class Found:
    """What is to be enrolled, what is left out below the folders, and doubts about the cameras."""

    crops: tuple[FileToEnroll, ...]
    left_out: tuple[LeftOut, ...] = ()
    doubts: tuple[str, ...] = ()


def find_crops(paths: Sequence[Path], camera: str | None, pattern: str | None) -> Found:
    """The files given and the images below the folders given, in sorted order.

    A folder with a manifest, or the manifest itself, stands for the files that it lists.

    Cameras, by the first rule that applies: the manifest's; `camera`; `pattern`, see
    `adapt.data.catalog.cameras.CameraPattern`; `adapt.data.catalog.cameras.cameras_by_path`, which
    refuses files in no folder.

    Raises DataError: a path is neither a file nor a folder, a folder cannot be read, or no rule
    names a camera, or `camera` cannot be stored.
    """
    if camera is not None:
        _check_camera(camera)
    crops: list[FileToEnroll] = []
    left_out: list[LeftOut] = []
    doubts: list[str] = []
    for path in paths:
        manifest = _manifest_of(path)
        if manifest is not None:
            listed = _listed_crops(manifest, camera, pattern)
            crops += listed.crops
            left_out += listed.left_out
            doubts += listed.doubts
            continue
        if path.is_dir():
            below = image_files(path)
            left_out += below.left_out
            files, root = below.images, path
        elif path.is_file() and path.name.lower().endswith(_ARCHIVES):
            raise DataError(f"{path} is an archive: unpack it, and give its folder")
        elif path.is_file():
            files, root = (path,), path.parent
        else:
            what = "is neither a file nor a folder" if path.exists() else "does not exist"
            raise DataError(f"{path} {what}; give files, or folders of crops")
        keys = [file.relative_to(root).as_posix() for file in files]
        cameras = [camera] * len(keys) if camera is not None else []
        if camera is None:
            if path.is_dir() and pattern is None:
                _refuse_one_camera(path, keys)
            cameras, found = find_cameras(keys, pattern, outside_folders=None)
            doubts += found
        spelled = cameras
        if pattern is not None and camera is None:
            spelled = list(map(CameraPattern(pattern).spelled, keys))
        crops += map(FileToEnroll, files, keys, cameras, spelled)
    # Links are not resolved: the same file linked into the folders of two cameras is two crops.
    unique = {crop.identity: crop for crop in crops}
    return Found(tuple(unique.values()), tuple(left_out), tuple(doubts))


def _refuse_one_camera(folder: Path, keys: Sequence[str]) -> None:
    """Raise DataError where a folder of crops is given that seems to be one camera's."""
    if any("/" in key for key in keys):
        return
    if "" in cameras_by_path(keys, outside_folders=""):
        name = one_line(folder.resolve().name)
        raise DataError(
            f"{folder} has no folders of cameras, so no camera is known for {keys[0]}: give "
            f"--camera {shlex.quote(name)} (or --camera-pattern REGEX), or the folder above "
            "where each of its folders is a camera"
        )


def _check_camera(camera: str) -> None:
    """Raise DataError, once for all crops, where a camera cannot be stored."""
    try:
        NewSighting(image=b"", camera=camera)
    except BadSightingError as error:
        raise DataError(f"--camera: {error}") from None


def _manifest_of(path: Path) -> Path | None:
    """The manifest that a path is or, as a folder, holds."""
    named = path.suffix.lower() in MANIFEST_TYPES and path.is_file()
    return find_manifest(path) if named or path.is_dir() else None


def _listed_crops(file: Path, camera: str | None, pattern: str | None) -> Found:
    manifest = read_manifest(file)
    root, rows = file.parent, manifest.rows
    if manifest.has_cameras and (camera is not None or pattern is not None):
        raise DataError(
            f"{file} has a column 'camera', and --camera or --camera-pattern is given, too: leave "
            "out the one that is wrong"
        )
    keys, doubts = [row.path for row in rows], list[str]()
    if manifest.has_cameras:
        cameras = [row.camera for row in rows]
    elif camera is not None:
        cameras = [camera] * len(rows)
    else:
        cameras, doubts = find_cameras(keys, pattern, outside_folders=None)
    crops = tuple(
        FileToEnroll(root / row.path, row.path, name, track=row.track, time=row.time)
        for row, name in zip(rows, cameras, strict=True)
    )
    return Found(crops, tuple(unlisted_images(root, keys, file.name)), tuple(doubts))
