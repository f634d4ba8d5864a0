"""MSMT17 as its authors hand it out: crops in folders of people, four lists that say which is what.

    list_train.txt  list_val.txt  list_query.txt  list_gallery.txt    lines `0000/NAME.jpg 0`
    train/ test/                      version 1
    mask_train_v2/ mask_test_v2/      version 2, faces blurred

NAME is `PERSON_NUMBER_CAMERA_...`. Wei et al., Person Transfer GAN to Bridge Domain Gap for Person
Re-Identification, CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapt.data.catalog.cameras import MAX_NUMBER, camera_codes, msmt17_camera
from adapt.data.catalog.image_files import dropped_below, unlisted_images
from adapt.data.catalog.splits import LISTED_FOLDERS, LISTS, Split
from adapt.errors import DataError, NoImagesError
from adapt.types import CropSet, Dropped, Sample
from models.wording import reason_of

_TEST_PEOPLE = 100_000
"""Added to test identities: both halves count their people from 0, and none is in both."""


@dataclass(frozen=True)
class _Listed:
    path: Path
    key: str
    camera: str
    person: int


def msmt17_splits(root: Path) -> set[Split]:
    """Splits of MSMT17 that lie below a folder: all their lists, and the crops' folder."""
    return {
        split
        for split, lists in LISTS.items()
        if all((root / name).is_file() for name in lists)
        and any((root / name).is_dir() for name in LISTED_FOLDERS[split])
    }


def read_msmt17(root: Path, splits: Sequence[Split]) -> CropSet:
    """List the crops that the lists of `splits` name, in the lists' order.

    Raises NoImagesError when a list or the crops' folder is missing, or a list is empty; DataError
    when a line is not `PATH PERSON`, its file name has no camera, or a number is too large.
    Blank lines do not count. Images that no list of their folder names are `unlisted`: those of
    test are found with the gallery, so that queries and gallery do not search it twice.
    """
    listed = [each for split in splits for each in _listed(root, split)]
    cameras = camera_codes(each.camera for each in listed)
    samples = tuple(Sample(e.path, e.key, cameras[e.camera], e.person) for e in listed)
    unlisted = tuple(drop for split in splits for drop in _unlisted(root, split))
    return CropSet(root, samples, tuple(cameras), unlisted=unlisted)


def _unlisted(root: Path, split: Split) -> tuple[Dropped, ...]:
    if split == "query":
        return ()
    folder = _folder(root, split)
    present = msmt17_splits(root)
    parts = [each for each in sorted(present) if LISTED_FOLDERS[each] == LISTED_FOLDERS[split]]
    paths = [each.path for part in parts for each in _listed(root, part)]
    listed = [path.relative_to(root / folder).as_posix() for path in paths]
    lists = " or ".join(name for part in parts for name in LISTS[part])
    return dropped_below(root, unlisted_images(root / folder, listed, lists))


def _folder(root: Path, split: Split) -> str:
    names = [name for name in LISTED_FOLDERS[split] if (root / name).is_dir()]
    if not names:
        raise NoImagesError(
            f"{root} has neither of the folders {' and '.join(LISTED_FOLDERS[split])}"
        )
    return names[0]


def _listed(root: Path, split: Split) -> list[_Listed]:
    folder = _folder(root, split)
    shift = 0 if split == "train" else _TEST_PEOPLE
    first: dict[str, str] = {}
    listed = []
    for file in LISTS[split]:
        for number, each in _lines(root, file, folder, shift):
            place = f"{file}, line {number}"
            if each.key in first:
                raise DataError(
                    f"{root / place}: {each.key} is in {first[each.key]}, too; restore MSMT17's "
                    "lists, or remove one of the lines"
                )
            first[each.key] = place
            listed.append(each)
    return listed


def _lines(root: Path, file: str, folder: str, shift: int) -> Iterator[tuple[int, _Listed]]:
    try:
        lines = (root / file).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise NoImagesError(
            f"{root / file} cannot be read ({reason_of(error)}): restore MSMT17's list"
        ) from None
    written = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    written = [(number, line) for number, line in written if line]
    if not written:
        raise NoImagesError(f"{root / file} is empty: restore MSMT17's list")
    for number, line in written:
        path, person = (*line.rsplit(maxsplit=1), "")[:2]
        camera = msmt17_camera(path.rpartition("/")[2])
        if camera is None or not person.isdecimal():
            raise DataError(
                f"{root / file}, line {number}: {line!r} is not "
                "'0000/0000_000_01_....jpg 0' (path, blank, person; the third field is the camera)"
            )
        if max(int(person) + shift, int(camera[1:])) > MAX_NUMBER:
            raise DataError(
                f"{root / file}, line {number}: {line!r} has a person or a camera above "
                f"{MAX_NUMBER - shift}; number them from 0"
            )
        yield number, _Listed(root / folder / path, f"{folder}/{path}", camera, int(person) + shift)
