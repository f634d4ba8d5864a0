"""Which camera took a file: all rules, for adapt, gate, enroll, pretrain and evaluate.

A caller asks in this order: what the user said (`CameraPattern`), then `cameras_by_path`. Labelled
sets have names of their own (`market_name`, `msmt17_camera`). No torch is needed.

Two parameters of `cameras_by_path` differ. adapt and gate read one folder as one site: subfolders
are its cameras, whatever the files are called, and a folder without any is one camera
(docs/cli.md, resight adapt). enroll may be given a whole labelled set, whose subfolders are splits:
names count in them, too. It refuses a crop without a camera, since a search by camera would be
wrong ever after (docs/service.md, resight enroll).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from adapt.errors import DataError

ONE_CAMERA = "all"
"""Name of the single camera of a folder that does not tell its cameras apart."""

_MARKET_NAME = re.compile(r"^(?P<person>-?\d+)_c(?P<camera>\d+)")
_MSMT17_NAME = re.compile(r"^\d+_\d+_(?P<camera>\d+)_")


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
    return None if match is None else MarketName(int(match["person"]), f"c{match['camera']}")


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
        except re.error as error:
            raise DataError(
                f"--camera-pattern {text!r} is not a valid regular expression: {error}"
            ) from None
        if not self._regex.groups:
            raise DataError(f"--camera-pattern {text!r} needs a group, such as 'cam(\\d+)_'")
        self._text = text
        self._group: str | int = "camera" if "camera" in self._regex.groupindex else 1

    def camera_of(self, key: str) -> str:
        """The camera of a file. key: its path below the folder given, POSIX separators.

        Raises DataError where the pattern finds none.
        """
        match = self._regex.search(key)
        if match is None or not match[self._group]:
            raise DataError(
                f"--camera-pattern {self._text!r} finds no camera in {key!r}; it has to match the "
                "path of every crop"
            )
        return str(match[self._group])


def cameras_by_path(
    paths: Sequence[str], *, names_in_subfolders: bool, outside_folders: str | None
) -> list[str]:
    """Name the camera of each file by its path alone.

    By the first rule that applies: Market-1501 file names, if all files have one; the first folder;
    `outside_folders` for a file in none.

    Args:
        paths: of the files below the folder given, POSIX separators.
        names_in_subfolders: whether file names count in subfolders, too, and not in one flat folder
            alone.
        outside_folders: camera of the files in no folder; None to refuse them.

    Raises:
        DataError: a file has no camera, or a folder has the name `outside_folders` while there are
            files outside folders.
    """
    parts = [PurePosixPath(path).parts for path in paths]
    named = [market_name(part[-1]) for part in parts]
    if all(named) and (names_in_subfolders or all(len(part) == 1 for part in parts)):
        return [name.camera for name in named if name]
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


def camera_codes(names: Iterable[str]) -> dict[str, int]:
    """Code of each camera name; c2 comes before c10."""
    return {name: code for code, name in enumerate(sorted(set(names), key=_by_number))}


def camera_numbers(names: Iterable[str]) -> list[int]:
    """Numbers of a labelled set's cameras (`c2`: 2), which are the same in each of its folders."""
    return [int(name.removeprefix("c")) for name in names]


def _by_number(name: str) -> tuple[object, ...]:
    return tuple(int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name))
