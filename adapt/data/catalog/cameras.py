"""Which camera took a file: all rules, for adapt, gate, report, enroll, pretrain and evaluate.

Plain folders: `find_cameras`, by what the user said (`CameraPattern`), else `cameras_by_path`.
Labelled sets have names of their own (`market_name`, `msmt17_camera`). No torch is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePosixPath

from adapt.data.catalog.splits import marked_folders, split_folders
from adapt.errors import DataError
from models.text import nfc
from models.wording import plural

ONE_CAMERA = "all"
"""Name of the single camera of a folder that does not tell its cameras apart."""

MAX_NUMBER = 2**63 - 1
"""Largest identity and camera number: arrays of them are of int64."""

_MARKET_NAME = re.compile(r"^(?P<person>-?\d+)_c(?P<camera>\d+)")
_MSMT17_NAME = re.compile(r"^\d+_\d+_(?P<camera>\d+)_")

_WHOLE_NAMES = tuple(
    re.compile(pattern)
    for pattern in (
        # Market-1501 0002_c1s1_000451_03, DukeMTMC 0001_c2_f0046182, VeRi 0001_c001_00016450_0,
        # DukeMTMC-VideoReID 0001_C5_F0099_X207050
        r"^(?P<person>-?\d+)_[cC](?P<camera>\d+)(?:s\d+_\d|_[fF]\d|_\d{8}_)",
        # MSMT17 0000_000_01_0303morning_0015_0
        r"^(?P<person>\d{4})_\d{3}_(?P<camera>\d\d)_\d{4}(?:morning|noon|afternoon)_",
        # MARS 0001C1T0001F001
        r"^(?P<person>\d{4}|00-1)C(?P<camera>\d)T\d{4}F\d{3}",
    )
)
"""Names that are not anything else, even in folders. FRAME_cN, as detectors write it, is none."""

_DATE = re.compile(r"(?:19|20)\d\d([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])")
"""A day such as 2026-03-01 or 20260301."""

_YEAR = re.compile(r"((?:19|20)\d\d)/(?:0[1-9]|1[0-2])/(?:0[1-9]|[12]\d|3[01])/")
"""Folders such as 2026/03/01."""

_MANY_CAMERAS = 16
_CROPS_OF_A_PERSON = 40
"""Public sets have fewer crops of each person, on average; sites have more from each camera."""


@dataclass(frozen=True, slots=True)
class MarketName:
    """What a file name of Market-1501 or DukeMTMC-reID says.

    person: identity; -1 for junk. camera: such as `c2`.
    """

    person: int
    camera: str


def market_name(file_name: str) -> MarketName | None:
    """Parse `PPPP_cC...`; None for another name."""
    match = _MARKET_NAME.match(file_name)
    return None if match is None else MarketName(int(match["person"]), f"c{int(match['camera'])}")


def msmt17_camera(file_name: str) -> str | None:
    """The camera in `PERSON_NUMBER_CAMERA_...`, such as `c2`; None for another name."""
    match = _MSMT17_NAME.match(file_name)
    return None if match is None else f"c{int(match['camera'])}"


class CameraPattern:
    """The user's rule, `--camera-pattern`: a regular expression searched in a file's path.

    Its group `camera`, or else its first group, is the camera.
    """

    def __init__(self, text: str) -> None:
        """Raises DataError: not a valid regular expression, or one without a group."""
        try:
            self._regex = re.compile(text)
            self._composed = re.compile(nfc(text))
        except re.error as error:
            raise DataError(
                f"--camera-pattern {text!r} is not a valid regular expression: {error}"
            ) from None
        if not self._regex.groups:
            raise DataError(f"--camera-pattern {text!r} needs a group, such as 'cam(\\d+)_'")
        self._text = text
        self._group: str | int = "camera" if "camera" in self._regex.groupindex else 1

    def camera_of(self, key: str) -> str:
        r"""The camera of a file, in NFC. key: its path below the folder given, POSIX separators.

        Pattern and path are compared in NFC: in NFD an accent is a character of its own, which
        `\w` and `.` would cut off. Raises DataError where the pattern finds none.
        """
        match = self._composed.search(nfc(key))
        if match is None or not match[self._group]:
            raise DataError(
                f"--camera-pattern {self._text!r} finds no camera in {key!r}; it has to match the "
                "path of every crop"
            )
        return str(match[self._group])

    def spelled(self, key: str) -> str:
        """What pattern and path give as they are spelled; else `camera_of`.

        Ids of enrolled files are made of it, so that they stay as they were.
        """
        match = self._regex.search(key)
        return str(match[self._group]) if match and match[self._group] else self.camera_of(key)


def find_cameras(
    paths: Sequence[str], pattern: str | None, *, outside_folders: str | None
) -> tuple[list[str], list[str]]:
    """Name the camera of each file of a plain folder.

    Args:
        paths, outside_folders: see `cameras_by_path`.
        pattern: of a `CameraPattern`, which then decides.

    Returns:
        A camera for each path, and doubts about them: warnings for people. A folder's name is
        spelled as it is there: whoever compares cameras brings them to NFC.

    Raises:
        DataError: as `CameraPattern` and `cameras_by_path`, or a camera's name is not UTF-8.
    """
    if pattern is not None:
        chosen = CameraPattern(pattern)
        cameras = [chosen.camera_of(path) for path in paths]
        _refuse_no_text(paths, cameras)
        return cameras, [*_people_for_cameras(paths, cameras), *_dates_for_cameras(paths, cameras)]
    cameras = cameras_by_path(paths, outside_folders=outside_folders)
    _refuse_no_text(paths, cameras)
    doubts = [*_spoiled_names(paths), *_people_for_cameras(paths, cameras)]
    return cameras, [*doubts, *_folder_for_cameras(paths), *_dates_for_cameras(paths, cameras)]


def _refuse_no_text(paths: Sequence[str], cameras: Sequence[str]) -> None:
    """Raise DataError where a camera cannot be stored as text."""
    for path, camera in zip(paths, cameras, strict=True):
        if any("\ud800" <= char <= "\udfff" for char in camera):
            raise DataError(
                f"{path}: the name of its camera is not UTF-8 and cannot be stored; rename its "
                "folder or file to UTF-8"
            )


def _dates_for_cameras(paths: Sequence[str], cameras: Sequence[str]) -> list[str]:
    """A warning where dates seem to have been taken for cameras."""
    years = {year[1] for path in paths if (year := _YEAR.match(path))}
    dates = sorted({each for each in cameras if each in years or _DATE.fullmatch(each)})
    if not dates:
        return []
    return [
        f"{dates[0]!r} is taken for a camera, but looks like a date ({len(dates)} of "
        f"{plural(len(set(cameras)), 'camera')} do); give --camera-pattern REGEX that finds the "
        "camera in each path"
    ]


def cameras_by_path(paths: Sequence[str], *, outside_folders: str | None) -> list[str]:
    """Name the camera of each file by its path alone.

    By the first rule that applies: names of a public set, if all files have such names, in
    whichever folders; short names `PPPP_cC`, if all files have one and lie in no folder, or each in
    a folder of its identity; the first folder; `outside_folders` for a file in none.

    Args:
        paths: of the files below the folder given, POSIX separators.
        outside_folders: camera of the files in no folder; None to refuse them.

    Raises:
        DataError: a file has no camera, the folders are splits of a labelled set, or a folder has
            the name `outside_folders` while there are files outside folders.
    """
    by_name = _cameras_by_name(paths)
    if by_name is not None:
        return by_name
    _refuse_splits(paths)
    parts = [PurePosixPath(path).parts for path in paths]
    loose = [path for path, part in zip(paths, parts, strict=True) if len(part) == 1]
    if loose and outside_folders is None:
        raise DataError(
            f"no camera is known for {loose[0]}: give --camera NAME or --camera-pattern REGEX, or "
            "put the crops of each camera in a folder of its own"
        )
    if loose and any(len(part) > 1 and part[0] == outside_folders for part in parts):
        raise DataError(
            f"crops lie beside the folder {outside_folders!r}, which is also the name of the "
            "camera of crops outside folders; rename the folder, or give each camera its own"
        )
    return [part[0] if len(part) > 1 else str(outside_folders) for part in parts]


def _spoiled_names(paths: Sequence[str]) -> list[str]:
    """A warning where most files have names of a public set, but others rule them out."""
    doubts = []
    for pattern in _WHOLE_NAMES:
        others = [path for path in paths if not pattern.match(PurePosixPath(path).name)]
        if 0 < len(others) < len(paths) / 2:
            doubts.append(
                f"{len(others)} of {plural(len(paths), 'file')} have no camera in their names, "
                f"unlike the others (first: {others[0]}), so cameras are not read from names; "
                "rename or remove these files, or give --camera-pattern"
            )
    return doubts


def _people_for_cameras(paths: Sequence[str], cameras: Sequence[str]) -> list[str]:
    """A warning where people seem to have been taken for cameras."""
    if list(cameras) == _cameras_by_name(paths):
        return []
    persons = [_person(PurePosixPath(path).name) for path in paths]
    same = [
        camera
        for camera, person in zip(cameras, persons, strict=True)
        if person is not None and _without_zeros(camera) == _without_zeros(person)
    ]
    known = sum(person is not None for person in persons)
    count = len(set(cameras))
    few = count >= _MANY_CAMERAS and len(paths) < _CROPS_OF_A_PERSON * count
    if not few and (len(set(same)) < 2 or 2 * len(same) <= known):
        return []
    why = f"about {plural(round(len(paths) / count), 'crop')} each"
    if same:
        why = f"{same[0]!r} is also an identity in the names of its crops"
    return [
        f"{plural(count, 'camera')} of {plural(len(paths), 'crop')} look like people, not cameras "
        f"({why}); give --camera-pattern, or put the crops of each camera in a folder of its own"
    ]


def _folder_for_cameras(paths: Sequence[str]) -> list[str]:
    """A warning where all crops are in one folder, but in several below it."""
    folders = [PurePosixPath(path).parts[:-1] for path in paths] or [()]
    same = takewhile(lambda pair: pair[0] == pair[1], zip(min(folders), max(folders), strict=False))
    shared = [folder for folder, _ in same]
    below = sorted({folder[len(shared)] for folder in folders if len(folder) > len(shared)})
    if not shared or len(below) < 2 or _cameras_by_name(paths) is not None:
        return []
    above = "/".join(shared)
    return [
        f"{plural(len(paths), 'crop')} are all taken for those of one camera, {shared[0]!r}, but "
        f"lie in {plural(len(below), 'folder')} of {above} (first: {below[0]}); if these are "
        f"cameras, give {above} itself, or --camera-pattern"
    ]


def _cameras_by_name(paths: Sequence[str]) -> list[str] | None:
    parts = [PurePosixPath(path).parts for path in paths]
    for pattern in _WHOLE_NAMES:
        matches = [pattern.match(part[-1]) for part in parts]
        if all(matches):
            return [f"c{int(match['camera'])}" for match in matches if match]
    short = [market_name(part[-1]) for part in parts]
    if not all(short):
        return None
    flat = all(len(part) == 1 for part in parts)
    if flat or all(_in_folder_of(part, str(_person(part[-1]))) for part in parts):
        return [name.camera for name in short if name]
    return None


def _in_folder_of(parts: Sequence[str], person: str) -> bool:
    return any(_without_zeros(folder) == _without_zeros(person) for folder in parts[:-1])


def _refuse_splits(paths: Sequence[str]) -> None:
    """Raise DataError where folders that would become cameras are parts of a labelled set."""
    marked = marked_folders(paths)
    splits = [each for marks in marked.values() for each in marks] or split_folders(paths)
    if splits:
        raise DataError(
            f"{', '.join(splits)}: parts of a labelled set, not cameras; give one of them alone, "
            "or --camera-pattern REGEX that finds the camera in each path"
        )


def _person(name: str) -> str | None:
    """The identity in a file name of a known pattern, as it is written."""
    for pattern in (*_WHOLE_NAMES, _MARKET_NAME):
        match = pattern.match(name)
        if match is not None:
            return match["person"]
    return None


def _without_zeros(number: str) -> str:
    return number.lstrip("0") or "0"


def camera_codes(names: Iterable[str]) -> dict[str, int]:
    """Code of each camera name; c2 comes before c10."""
    return {name: code for code, name in enumerate(sorted(set(names), key=_by_number))}


def camera_numbers(names: Iterable[str]) -> list[int]:
    """Numbers of a labelled set's cameras (`c2`: 2), which are the same in each of its folders."""
    return [int(name.removeprefix("c")) for name in names]


def _by_number(name: str) -> tuple[object, ...]:
    return tuple(int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name))
