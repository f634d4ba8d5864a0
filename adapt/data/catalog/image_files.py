"""The image files below a folder, by their names, and what is left out there."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

from adapt.errors import DataError
from adapt.types import Dropped
from models.wording import reason_of

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff"}
)

_UNREAD_SUFFIXES = frozenset({".avif", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".pgm", ".ppm"})
"""Images, but of types that `models.image` does not decode."""


_MAX_NAMES, _MAX_REASONS = 10, 20
"""Of the files that are left out, how many are named for a reason, and for how many reasons."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file, or a link to a folder, that is not read, and why.

    image: whether crops may be missing: False for what is not an image or is read elsewhere.
    """

    path: Path
    reason: str
    image: bool


@dataclass(frozen=True)
class ImageFiles:
    """What is below a folder, in sorted order.

    images: files whose suffix is in `IMAGE_SUFFIXES`.
    left_out: all other files, and links that are not followed.
    """

    images: tuple[Path, ...]
    left_out: tuple[LeftOut, ...]


def image_files(folder: Path) -> ImageFiles:
    """Find the files below a folder.

    Hidden files, by their names beginning with a dot, are left out, and hidden folders with all
    that is below them: systems put previews and lists beside the crops (.DS_Store, ._x.jpg).
    Links to folders are followed, each folder once: what is not a link comes first, then links in
    sorted order. A link to a folder that is read already, or that the folder is in, is left out.
    Links to files count, broken ones too where their names are those of images: reading them says
    what is wrong.
    Raises DataError when a folder cannot be read: its crops would be missing without a word.
    """
    walk = _Walk(folder)
    images, left_out = [], walk.left_out
    for path in walk.files:
        suffix = path.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            images.append(path)
        elif suffix in _UNREAD_SUFFIXES:
            reason = f"file type {suffix} is not read; convert it to JPEG or PNG"
            left_out.append(LeftOut(path, reason, image=True))
        else:
            reason = f"file type {path.suffix} is not an image type"
            if not path.suffix:
                reason = "file type none is not an image type; add .jpg if it is an image"
            left_out.append(LeftOut(path, reason, image=False))
    left_out.sort(key=lambda each: each.path)
    return ImageFiles(tuple(sorted(images)), tuple(left_out))


def unlisted_images(folder: Path, listed: Collection[str], what: str) -> tuple[LeftOut, ...]:
    """Images below a folder that its list does not name, by their names alone; sorted.

    Hidden files and folders do not count. A link to a folder is followed where the list names
    files below it, else it is in the answer itself. So is a folder that cannot be read.
    listed: paths below `folder`, `/` between folders. what: the list, for people.
    """
    named, suffixes = frozenset(listed), tuple(IMAGE_SUFFIXES | _UNREAD_SUFFIXES)
    above = {str(parent) for path in named for parent in PurePosixPath(path).parents}
    found: list[LeftOut] = []

    def refused(error: OSError) -> None:
        reason = f"cannot be read ({reason_of(error)}); {what} lists nothing else below it"
        found.append(LeftOut(Path(error.filename), reason, image=False))

    for parent, folders, names in os.walk(folder, onerror=refused, followlinks=True):
        here = os.path.relpath(parent, folder)
        before = "" if here == "." else f"{here}/"
        for name in names:
            image = name.lower().endswith(suffixes)
            if image and not is_hidden(name) and before + name not in named:
                path = Path(parent, name)
                found.append(LeftOut(path, f"not listed in {what}", image=False))
        links = {
            name
            for name in folders
            if before + name not in above and Path(parent, name).is_symlink()
        }
        reason = f"a link to a folder of which {what} lists nothing"
        found += [LeftOut(Path(parent, name), reason, image=False) for name in links]
        folders[:] = [name for name in folders if name not in links and not is_hidden(name)]
    return tuple(sorted(found, key=lambda each: each.path))


def dropped_below(root: Path, left_out: Iterable[LeftOut]) -> tuple[Dropped, ...]:
    """What is left out of a set of crops, by its paths below `root`."""
    return tuple(
        Dropped(each.path.relative_to(root).as_posix(), each.reason, image=each.image)
        for each in left_out
    )


def left_out_lines(left_out: Iterable[tuple[str, str]]) -> list[str]:
    """Lines for people on (name, reason) of each file: by reason, the first names of each."""
    names: dict[str, list[str]] = {}
    for name, reason in left_out:
        names.setdefault(reason, []).append(name)
    lines = []
    for reason, of_it in list(names.items())[:_MAX_REASONS]:
        more = len(of_it) - _MAX_NAMES
        listed = ", ".join(of_it[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
        lines.append(f"left out {listed}: {reason}")
    unsaid = sum(map(len, list(names.values())[_MAX_REASONS:]))
    return lines + ([f"left out {unsaid} more, for other reasons"] if unsaid else [])


def unread_reason(path: Path, error: OSError) -> str:
    """Why a file could not be read, as `image_files` says it."""
    if path.is_symlink() and not path.exists():
        return f"a broken link: {path.readlink()} is not there"
    return reason_of(error)


class _Walk:
    """Files below a folder, and the links that were left out."""

    def __init__(self, root: Path) -> None:
        self.files: list[Path] = []
        self.left_out: list[LeftOut] = []
        self._root = root
        self._read: dict[tuple[int, int], Path] = {}
        self._links: deque[Path] = deque()
        try:
            self._enter(root)
            while self._links:
                self._follow(self._links.popleft())
        except OSError as error:
            _refuse(error)

    def _follow(self, link: Path) -> None:
        target, root = link.resolve(), self._root.resolve()
        if target in root.parents:
            reason = f"a link to {target}, which holds {self._root}"
            self.left_out.append(LeftOut(link, reason, image=False))
        elif not self._is_read(link):
            self._enter(link)

    def _enter(self, folder: Path) -> None:
        links: list[Path] = []
        for parent, folders, names in os.walk(folder, onerror=_refuse):
            here = Path(parent)
            self._read[_identity(here)] = here
            self._leave_hidden(here, folders, "a hidden folder, which is not searched")
            self._leave_hidden(here, names, "a hidden file")
            inside = [here / name for name in folders if not is_hidden(name)]
            links += [path for path in inside if path.is_symlink()]
            real = [path for path in inside if not path.is_symlink()]
            folders[:] = [path.name for path in real if not self._is_read(path)]
            self._sort([here / name for name in names if not is_hidden(name)])
        self._links.extend(sorted(links))

    def _leave_hidden(self, parent: Path, names: Sequence[str], reason: str) -> None:
        hidden = [parent / name for name in names if is_hidden(name)]
        self.left_out += [LeftOut(path, reason, image=False) for path in hidden]

    def _is_read(self, folder: Path) -> bool:
        """Whether a folder was read before; it is then left out."""
        before = self._read.get(_identity(folder))
        if before is not None:
            where = "the whole" if before == self._root else before.relative_to(self._root)
            reason = f"the same folder as {where}, which is read"
            self.left_out.append(LeftOut(folder, reason, image=False))
        return before is not None

    def _sort(self, paths: Sequence[Path]) -> None:
        for path in paths:
            if path.is_file():
                self.files.append(path)
            elif not path.is_symlink():
                reason = "neither a file nor a folder"
                self.left_out.append(LeftOut(path, reason, image=False))
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                self.files.append(path)
            else:
                reason = f"a broken link: {path.readlink()} is not there"
                self.left_out.append(LeftOut(path, reason, image=True))


def is_hidden(name: str) -> bool:
    """Whether a file or a folder of this name is left out as hidden."""
    return name.startswith(".")


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _refuse(error: OSError) -> NoReturn:
    raise DataError(
        f"{error.filename} cannot be read ({error.strerror}): its crops would be missing; allow "
        "reading it, or move it elsewhere"
    ) from error
