"""Image files on disk -> sightings to enroll."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import typer

from adapt.data.catalog.folders import IMAGE_SUFFIXES
from service.errors import BadSightingError
from service.types import NewSighting

MAX_FILE_BYTES = 64 * 1024 * 1024
"""Nothing above this can be a crop; it is not even read."""

_MARKET_NAME = re.compile(r"-?\d+_c(?P<camera>\d+)")


@dataclass(frozen=True, slots=True)
class CropFile:
    """One file to enroll. key: its path below the folder that was given, POSIX separators."""

    path: Path
    key: str
    camera: str

    @property
    def place(self) -> str:
        """Its absolute path, links not followed."""
        return os.path.normpath(self.path.absolute())

    def read(self) -> NewSighting:
        """The sighting: time of the file's last change, attribute `file`, and an id made of camera,
        absolute path, so that enrolling a file again, changed or not, replaces its sighting.

        Raises:
            OSError: the file cannot be read.
            BadSightingError: too large to be a crop, or its camera or time is not well formed.
        """
        status = self.path.stat()
        if status.st_size > MAX_FILE_BYTES:
            raise BadSightingError(f"{status.st_size} bytes are no crop; send the crop alone")
        image = self.path.read_bytes()
        identity = hashlib.sha256()
        for part in (self.camera, self.place):
            identity.update(hashlib.sha256(os.fsencode(part)).digest())
        key = self.key.encode("utf-8", "replace").decode()
        return NewSighting(
            image=image,
            camera=self.camera,
            id=identity.hexdigest()[:32],
            time=_time(status.st_mtime),
            attributes={"file": key[-1024:]},
        )


def _time(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError) as error:
        raise BadSightingError(f"its time of change is impossible ({error}); touch it") from error


@dataclass(frozen=True, slots=True)
class Found:
    """What is to be enrolled, and how many files below the folders are no images."""

    crops: tuple[CropFile, ...]
    ignored: int


def find_crops(paths: Sequence[Path], camera: str | None, pattern: str | None) -> Found:
    """The files given and the images below the folders given, in sorted order.

    Cameras, by the first rule that applies: `camera`; `pattern`, a regular expression searched in
    the path below the folder (its group `camera`, or its first group, is the camera); Market-1501
    names (`PPPP_cC...`, all files of a folder: camera cC); the first folder below the one given.

    Raises:
        typer.BadParameter: a path is not there, or no rule names a camera.
    """
    regex = _compile(pattern)
    crops: list[CropFile] = []
    ignored = 0
    for path in paths:
        if path.is_dir():
            files, others = _images_below(path)
            ignored += others
            root = path
        elif path.exists():
            files, root = [path], path.parent
        else:
            raise typer.BadParameter(f"there is no file or folder {path}")
        keys = [file.relative_to(root).as_posix() for file in files]
        crops += [
            CropFile(file, key, name)
            for file, key, name in zip(files, keys, _cameras(keys, camera, regex), strict=True)
        ]
    # Links are not followed: the same file linked into the folders of two cameras is two crops.
    unique = {(crop.camera, crop.place): crop for crop in crops}
    return Found(tuple(unique.values()), ignored)


def _compile(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise typer.BadParameter(f"--camera-pattern is no regular expression: {error}") from error
    if not regex.groups:
        raise typer.BadParameter("--camera-pattern needs a group, such as 'cam(\\d+)_'")
    return regex


def _images_below(folder: Path) -> tuple[list[Path], int]:
    visible = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    images = [path for path in visible if path.suffix.lower() in IMAGE_SUFFIXES]
    return images, len(visible) - len(images)


def _cameras(
    keys: Sequence[str], camera: str | None, pattern: re.Pattern[str] | None
) -> Sequence[str]:
    if camera is not None:
        return [camera] * len(keys)
    if pattern is not None:
        return [_matched(key, pattern) for key in keys]
    market = [_MARKET_NAME.match(Path(key).name) for key in keys]
    if all(market):
        return [f"c{match['camera']}" for match in market if match]
    return [_folder(key) for key in keys]


def _matched(key: str, pattern: re.Pattern[str]) -> str:
    match = pattern.search(key)
    name = match and match["camera" if "camera" in pattern.groupindex else 1]
    if not name:
        raise typer.BadParameter(f"--camera-pattern finds no camera in {key}")
    return name


def _folder(key: str) -> str:
    first, slash, _ = key.partition("/")
    if not slash:
        raise typer.BadParameter(
            f"no camera is known for {key}: give --camera NAME or --camera-pattern REGEX, or put "
            "the crops of each camera in a folder of its own"
        )
    return first
