"""Find the crops below a folder: labelled sets in their published layouts, plain site folders.

Nothing is decoded here; `adapt.data.decoding.decode` does that and leaves out what cannot be read.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapt.data.catalog.cameras import (
    MAX_NUMBER,
    ONE_CAMERA,
    MarketName,
    camera_codes,
    find_cameras,
    market_name,
    msmt17_camera,
)
from adapt.data.catalog.image_files import (
    IMAGE_SUFFIXES,
    dropped_below,
    image_files,
    is_hidden,
    unlisted_images,
)
from adapt.data.catalog.manifest import (
    Problems,
    SiteManifest,
    find_manifest,
    note_shared_tracks,
    read_manifest,
)
from adapt.data.catalog.msmt17 import msmt17_splits, read_msmt17
from adapt.data.catalog.splits import (
    LISTED_FOLDERS,
    LISTS,
    MARKS,
    SPLIT_FOLDERS,
    Split,
    is_split_name,
    marked_folders,
    split_folders,
)
from adapt.errors import DataError, NoImagesError
from adapt.types import UNLABELLED, UNTRACKED, CropSet, Dropped, Sample
from models.text import nfc
from models.wording import plural

log = logging.getLogger("resight")

_COPIED_BY_MACS = "__MACOSX"
"""Folder that macOS puts into its archives, with a hidden file for each file of the others."""


@dataclass(frozen=True)
class _Found:
    root: Path
    images: tuple[Path, ...]
    dropped: tuple[Dropped, ...]
    unlisted: tuple[Dropped, ...] = ()

    @property
    def keys(self) -> list[str]:
        """Paths of the images below `root`."""
        return [path.relative_to(self.root).as_posix() for path in self.images]


def labelled_splits(root: Path) -> set[Split]:
    """Parts of a labelled set that are below a folder, in either layout of `read_labelled`.

    Raises DataError where a part is a broken link, or a file in the place of a folder.
    """
    for name in (*SPLIT_FOLDERS.values(), *sorted(MARKS)):
        path = root / name
        usable = path.is_file() if name.endswith(".txt") else path.is_dir()
        if os.path.lexists(path) and not usable:
            raise DataError(
                f"{path} is {_state(path)}, so a part of the set cannot be read: restore it, or "
                "remove it to read the set without this part"
            )
    return _market_splits(root) or msmt17_splits(root)


def _state(path: Path) -> str:
    if not os.path.lexists(path):
        return "missing"
    if not path.exists():
        return "a broken link"
    return "not a file" if path.is_dir() else "not a folder"


def read_labelled(root: Path, splits: Sequence[Split]) -> CropSet:
    """List labelled crops in the layout that is found below `root`.

    Market-1501's (`read_market`; DukeMTMC-reID's is the same) where one of its folders is there,
    else MSMT17's (`read_msmt17`).
    Raises NoImagesError when it is neither or a split is missing; DataError as the readers do.
    """
    if not labelled_splits(root):
        lists = ", ".join(name for names in LISTS.values() for name in names)
        raise NoImagesError(
            f"{root} holds no labelled set: looked for the folders "
            f"{', '.join(SPLIT_FOLDERS.values())} (Market-1501, DukeMTMC-reID) and for {lists} "
            f"beside train and test (MSMT17){_hint(root)}"
        )
    if not _market_splits(root):
        return read_msmt17(root, splits)
    for split in splits:
        if not (root / SPLIT_FOLDERS[split]).is_dir():
            raise NoImagesError(f"{root / SPLIT_FOLDERS[split]} is not a folder{_hint(root)}")
    return read_market(root, splits)


def _hint(root: Path) -> str:
    """What to do where a labelled set is not as it should be."""
    if not root.is_dir():
        return "; give a folder"
    found = sorted({path.parent for depth in ("*/", "*/*/") for path in _marks(root, depth)})
    if found:
        return f"; give one of the sets below: {', '.join(map(str, found))}"
    if _has_names_of_msmt17(root):
        missing = [name for names in LISTS.values() for name in names if not (root / name).exists()]
        return (
            f"; its names are those of MSMT17, but {', '.join(missing)} are missing: its authors "
            f"hand them out with the crops, put them into {root}"
        )
    for depth in ("*/", "*/*/"):
        if splits := _split_names(root, depth):
            return (
                f"; it has {', '.join(splits)}, but crops named as in Market-1501 are found in "
                f"folders called {', '.join(SPLIT_FOLDERS.values())} (training, queries, gallery)"
            )
    return "; give the folder that holds the crops"


def _marks(root: Path, above: str) -> Iterator[Path]:
    marks = (path for name in sorted(MARKS) for path in root.glob(above + name))
    return (path for path in marks if path.parent.name != _COPIED_BY_MACS)


def _has_names_of_msmt17(root: Path) -> bool:
    """Whether crops have names of MSMT17, which say nothing without its lists."""
    folders = sorted({name for names in LISTED_FOLDERS.values() for name in names})
    firsts = (next((root / name).glob("*/*.jpg"), None) for name in folders)
    return any(path is not None and msmt17_camera(path.name) for path in firsts)


def _split_names(root: Path, depth: str) -> list[str]:
    """Folders of other tools for what Market-1501 has names of its own for."""
    own = SPLIT_FOLDERS.values()
    found = (path for path in root.glob(depth) if is_split_name(path.name) and path.name not in own)
    return sorted(path.relative_to(root).as_posix() for path in found)


def _market_splits(root: Path) -> set[Split]:
    return {split for split, name in SPLIT_FOLDERS.items() if (root / name).is_dir()}


def read_market(root: Path, splits: Sequence[Split]) -> CropSet:
    """List labelled crops named `PPPP_cC...` in Market-1501's folders, in whichever subfolders.

    splits: which of bounding_box_train, query and bounding_box_test to read.
    Returns samples in (split, name) order, keys relative to `root`; junk boxes (person -1) are
    kept, since the evaluation protocol needs to know them.
    Raises NoImagesError when a folder is missing or holds no image; DataError when an image's
    name does not follow the pattern, or has a number that no set has.
    """
    found = [_find(root / SPLIT_FOLDERS[split], root) for split in splits]
    images = [path for part in found for path in part.images]
    dropped = tuple(drop for part in found for drop in part.dropped)
    names = _market_names(root, images)
    for path, name in zip(images, names, strict=True):
        if not (-1 <= name.person <= MAX_NUMBER and int(name.camera[1:]) <= MAX_NUMBER):
            raise DataError(
                f"{path} is of person {name.person} and camera {name.camera}, but numbers go from "
                f"0 (-1 for nobody known) to {MAX_NUMBER}; number people and cameras anew"
            )
    cameras = camera_codes(name.camera for name in names)
    samples = tuple(
        Sample(path, path.relative_to(root).as_posix(), cameras[name.camera], name.person)
        for path, name in zip(images, names, strict=True)
    )
    return CropSet(root, samples, tuple(cameras), dropped)


def _market_names(root: Path, images: Sequence[Path]) -> list[MarketName]:
    named = [market_name(path.name) for path in images]
    wrong = [path for path, name in zip(images, named, strict=True) if name is None]
    if wrong:
        raise DataError(
            f"{len(wrong)} of {plural(len(images), 'file')} below {root} do not have a name "
            f"like Market-1501 (PPPP_cC...), first: {wrong[0].name}; rename them (0001_c1_... "
            "where no camera is known), or use a plain site folder"
        )
    return [name for name in named if name]


def read_site(root: Path, camera_pattern: str | None = None) -> CropSet:
    """List the unlabelled crops of a site; identities in file names are never read.

    root: a folder, or a manifest (`adapt.data.catalog.manifest`); a folder that holds one is read
    by it, and the manifest's crops have tracks and times. Of a labelled set (see `read_labelled`)
    the crops are those for training, with their cameras.
    Cameras, by the first rule that applies: the manifest's column; `camera_pattern`
    (`adapt.data.catalog.cameras.CameraPattern`, on paths below `root`); file names of a labelled
    set; `cameras_by_path`, with one camera for what is in no folder. Names are in NFC. Doubts are
    logged.
    Raises NoImagesError; DataError when the pattern is not a valid regular expression, has no group
    or does not match every file, when a folder has the name of the camera of crops outside
    folders, when the folders are splits, when a labelled set is incomplete or further below, when a
    folder cannot be read, or as `read_manifest`.
    """
    file = find_manifest(root)
    if file is not None:
        return _manifest_site(read_manifest(file), camera_pattern)
    if (root / SPLIT_FOLDERS["train"]).is_dir():
        found, names = _market_site(root, camera_pattern)
    elif "train" in msmt17_splits(root):
        found, names = _listed_site(root, camera_pattern)
    else:
        found = _find(root, root)
        _refuse_sets(found, camera_pattern)
        names = _camera_names(found.keys, camera_pattern)
    cameras = camera_codes(names)
    samples = tuple(
        Sample(path, key, cameras[name], UNLABELLED)
        for path, key, name in zip(found.images, found.keys, names, strict=True)
    )
    return CropSet(root, samples, tuple(cameras), found.dropped, unlisted=found.unlisted)


def _market_site(root: Path, pattern: str | None) -> tuple[_Found, list[str]]:
    folder = SPLIT_FOLDERS["train"]
    found = _find(root / folder, root)
    if pattern is not None:
        return found, _camera_names(found.keys, pattern)
    if any(market_name(path.name) for path in found.images):
        return found, [name.camera for name in _market_names(root, found.images)]
    return found, _camera_names([key.removeprefix(f"{folder}/") for key in found.keys], None)


def _refuse_sets(found: _Found, pattern: str | None) -> None:
    """Raise DataError where a plain folder is part of a labelled set, or holds one.

    Split names alone may be cameras, too: a pattern then decides, with a warning.
    """
    root, left_out = found.root, [drop.key for drop in found.dropped]
    shown = [key for key in left_out if not is_hidden(Path(key).name)]
    marked = marked_folders([*found.keys, *shown])
    if "." in marked:
        raise DataError(
            f"{root} holds {', '.join(marked['.'])} of a labelled set, whose training crops would "
            f"be the site, but {_missing(root, marked['.'])}: restore it, or give the folder of "
            "crops that is the site"
        )
    if marked:
        places = [str(root / folder) for folder in marked]
        raise DataError(
            f"{root} is not a site, but the place of {plural(len(places), 'labelled set')}: "
            f"give {'' if len(places) == 1 else 'one of '}{', '.join(places)}"
        )
    splits = split_folders(found.keys)
    if splits and pattern is None:
        raise DataError(
            f"{root} has folders of a labelled set's parts, which are not cameras: "
            f"{', '.join(splits)}; give the one that is the site, or, where all of it is, "
            "--camera-pattern REGEX that finds the camera in each path"
        )
    if splits:
        log.warning("%s: the crops of %s are all taken for the site's", root, ", ".join(splits))


def _missing(root: Path, marks: Sequence[str]) -> str:
    """Which training parts of the set with these marks are not there."""
    if any(mark in SPLIT_FOLDERS.values() for mark in marks):
        path = root / SPLIT_FOLDERS["train"]
        return f"{path.name} is {_state(path)}"
    lists = [name for name in LISTS["train"] if not (root / name).is_file()]
    parts = [f"{name} is {_state(root / name)}" for name in lists]
    if not any((root / name).is_dir() for name in LISTED_FOLDERS["train"]):
        parts.append(f"neither {' nor '.join(LISTED_FOLDERS['train'])} is a folder")
    return " and ".join(parts)


def _manifest_site(manifest: SiteManifest, pattern: str | None) -> CropSet:
    root, rows = manifest.file.parent, manifest.rows
    if manifest.has_cameras and pattern is not None:
        raise DataError(
            f"{manifest.file} has a column 'camera', and --camera-pattern is given, too: leave out "
            "the one that is wrong"
        )
    if manifest.has_cameras:
        names = [row.camera for row in rows]
    else:
        names = _camera_names([row.path for row in rows], pattern)
        problems = Problems(manifest.file)
        seen = [(row.number, row.track, name) for row, name in zip(rows, names, strict=True)]
        note_shared_tracks(seen, problems)
        problems.refuse()
    cameras = camera_codes(names)
    tracks = {name: code for code, name in enumerate(sorted({row.track for row in rows} - {""}))}
    samples = tuple(
        Sample(
            root / row.path,
            row.path,
            cameras[name],
            track=tracks.get(row.track, UNTRACKED),
            time=row.time,
        )
        for row, name in zip(rows, names, strict=True)
    )
    beside = unlisted_images(root, [row.path for row in rows], manifest.file.name)
    return CropSet(
        root,
        samples,
        tuple(cameras),
        manifest=manifest.file.name,
        unlisted=dropped_below(root, beside),
    )


def _listed_site(root: Path, pattern: str | None) -> tuple[_Found, list[str]]:
    crops = read_msmt17(root, ("train",))
    images = tuple(sample.path for sample in crops.samples)
    found = _Found(root, images, (), unlisted=crops.unlisted)
    if pattern is not None:
        return found, _camera_names(found.keys, pattern)
    return found, [crops.cameras[sample.camera] for sample in crops.samples]


def _camera_names(keys: Sequence[str], pattern: str | None) -> list[str]:
    """Cameras of a site's crops, in NFC; what is odd about them is logged."""
    cameras, doubts = find_cameras(keys, pattern, outside_folders=ONE_CAMERA)
    for doubt in doubts:
        log.warning("%s", doubt)
    return [nfc(camera) for camera in cameras]


def _find(folder: Path, root: Path) -> _Found:
    """All image files below `folder` in sorted order; what else is visible is left out by name."""
    if not folder.is_dir():
        raise NoImagesError(f"{folder} is not a folder; give the folder that holds the crops")
    files = image_files(folder)
    dropped = dropped_below(root, files.left_out)
    if not files.images:
        first = "".join(
            f"; first of what is left out: {drop.key}, {drop.reason}" for drop in dropped[:1]
        )
        raise NoImagesError(
            f"no images below {folder} (looked for {', '.join(sorted(IMAGE_SUFFIXES))}{first}); "
            "give a folder that holds crops"
        )
    return _Found(root, files.images, dropped)
