"""Find the crops below a folder: labelled sets in their published layouts, plain site folders.

Nothing is decoded here; `adapt.data.decoding.decode` does that and leaves out what cannot be read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adapt.data.catalog.manifest import (
    Manifest,
    Problems,
    find_manifest,
    note_shared_tracks,
    read_manifest,
)
from adapt.data.catalog.msmt17 import LISTS, msmt17_splits, read_msmt17
from adapt.data.catalog.splits import Split, camera_codes
from adapt.errors import DataError, NoImagesError
from adapt.types import UNLABELLED, UNTRACKED, CropSet, Dropped, Sample

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

SPLIT_FOLDERS: dict[Split, str] = {
    "train": "bounding_box_train",
    "query": "query",
    "gallery": "bounding_box_test",
}
_MARKET_NAME = re.compile(r"^(?P<person>-?\d+)_c(?P<camera>\d+)")
_MARKET_CAMERA = re.compile(r"^-?\d+_c(?P<camera>\d+)")
ONE_CAMERA = "all"
"""Name of the single camera of a folder that does not tell its cameras apart."""


@dataclass(frozen=True)
class _Found:
    root: Path
    images: tuple[Path, ...]
    ignored: tuple[Dropped, ...]

    def key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def labelled_splits(root: Path) -> set[Split]:
    """Parts of a labelled set that lie below a folder, in either layout of `read_labelled`."""
    return _market_splits(root) or msmt17_splits(root)


def read_labelled(root: Path, splits: Sequence[Split]) -> CropSet:
    """List labelled crops in the layout that is found below `root`.

    Market-1501's (`read_market`; DukeMTMC-reID's is the same) where one of its folders lies there,
    else MSMT17's (`read_msmt17`).
    Raises NoImagesError when it is neither or a split is missing; DataError as the readers do.
    """
    if not labelled_splits(root):
        lists = ", ".join(name for names in LISTS.values() for name in names)
        raise NoImagesError(
            f"{root} holds no labelled set: looked for the folders "
            f"{', '.join(SPLIT_FOLDERS.values())} (Market-1501, DukeMTMC-reID) and for {lists} "
            "beside train and test (MSMT17)"
        )
    read = read_market if _market_splits(root) else read_msmt17
    return read(root, splits)


def _market_splits(root: Path) -> set[Split]:
    return {split for split, name in SPLIT_FOLDERS.items() if (root / name).is_dir()}


def read_market(root: Path, splits: Sequence[Split]) -> CropSet:
    """List labelled crops named `PPPP_cC...` in Market-1501's folders.

    splits: which of bounding_box_train, query and bounding_box_test to read.
    Returns samples in (split, name) order, keys relative to `root`; junk boxes (person -1) are
    kept, since the evaluation protocol needs to know them.
    Raises NoImagesError when a folder is missing or holds no image; DataError when an image's
    name does not follow the pattern.
    """
    found = [_find(root / SPLIT_FOLDERS[split], root) for split in splits]
    images = [path for part in found for path in part.images]
    ignored = tuple(drop for part in found for drop in part.ignored)
    matches = [_MARKET_NAME.match(path.name) for path in images]
    wrong = [path for path, match in zip(images, matches, strict=True) if match is None]
    if wrong:
        raise DataError(
            f"{len(wrong)} of {len(images)} files below {root} are not named like Market-1501 "
            f"(PPPP_cC...), first: {wrong[0].name}; rename them or use a plain site folder"
        )
    named = [(path, m, f"c{m['camera']}") for path, m in zip(images, matches, strict=True) if m]
    cameras = camera_codes(camera for _, _, camera in named)
    samples = tuple(
        Sample(path, path.relative_to(root).as_posix(), cameras[camera], int(m["person"]))
        for path, m, camera in named
    )
    return CropSet(root, samples, tuple(cameras), ignored)


def read_site(root: Path, camera_pattern: str | None = None) -> CropSet:
    """List the unlabelled crops of a site; identities in file names are never read.

    root: a folder, or a manifest (`adapt.data.catalog.manifest`); a folder that holds one is read
    by it, and the manifest's crops have tracks and times. Of a labelled set (see `read_labelled`)
    the crops are those for training, with their cameras.
    Cameras, by the manifest's column; else by the first rule that applies: `camera_pattern`
    (regular expression searched in the path below `root`; its group `camera`, or its first group,
    names the camera); Market-1501 file names (`PPPP_cC...`, all of them, in one folder); the first
    folder below `root`; otherwise one camera for all.
    Raises NoImagesError; DataError when the pattern is no regular expression, has no group or
    does not match every file, when a folder has the name of the camera of crops outside
    folders, or as `read_manifest`.
    """
    file = find_manifest(root)
    if file is not None:
        return _manifest_site(read_manifest(file), camera_pattern)
    market = root / SPLIT_FOLDERS["train"]
    if not market.is_dir() and "train" in msmt17_splits(root):
        found, names = _listed_site(root, camera_pattern)
    else:
        base = market if market.is_dir() else root
        found = _find(base, root)
        names = _camera_names(found, base, camera_pattern)
    cameras = camera_codes(names)
    samples = tuple(
        Sample(path, found.key(path), cameras[name], UNLABELLED)
        for path, name in zip(found.images, names, strict=True)
    )
    return CropSet(root, samples, tuple(cameras), found.ignored)


def _manifest_site(manifest: Manifest, pattern: str | None) -> CropSet:
    root, entries = manifest.file.parent, manifest.entries
    if manifest.has_cameras and pattern is not None:
        raise DataError(
            f"{manifest.file} has a column 'camera', and --camera-pattern is given, too: leave out "
            "the one that is wrong"
        )
    found = _Found(root, tuple(root / entry.path for entry in entries), ())
    if manifest.has_cameras:
        names = [entry.camera for entry in entries]
    else:
        names = _camera_names(found, root, pattern)
        problems = Problems(manifest.file)
        rows = [(e.row, e.track, name) for e, name in zip(entries, names, strict=True)]
        note_shared_tracks(rows, problems)
        problems.refuse()
    cameras = camera_codes(names)
    tracks = {name: code for code, name in enumerate(sorted({e.track for e in entries} - {""}))}
    samples = tuple(
        Sample(
            root / entry.path,
            entry.path,
            cameras[name],
            track=tracks.get(entry.track, UNTRACKED),
            time=entry.time,
        )
        for entry, name in zip(entries, names, strict=True)
    )
    return CropSet(root, samples, tuple(cameras), manifest=manifest.file.name)


def _listed_site(root: Path, pattern: str | None) -> tuple[_Found, list[str]]:
    crops = read_msmt17(root, ("train",))
    found = _Found(root, tuple(sample.path for sample in crops.samples), ())
    if pattern is not None:
        return found, _matched_cameras(found, pattern)
    return found, [crops.cameras[sample.camera] for sample in crops.samples]


def _camera_names(found: _Found, base: Path, pattern: str | None) -> list[str]:
    if pattern is not None:
        return _matched_cameras(found, pattern)
    parts = [path.relative_to(base).parts for path in found.images]
    market = [_MARKET_CAMERA.match(path.name) for path in found.images]
    if all(market) and all(len(p) == 1 for p in parts):
        return [f"c{m['camera']}" for m in market if m]
    if any(len(p) == 1 for p in parts) and any(len(p) > 1 and p[0] == ONE_CAMERA for p in parts):
        raise DataError(
            f"{found.root} has crops beside the folder {ONE_CAMERA!r}, and that is the name of the "
            "camera of crops outside folders; rename the folder, or give each camera its own"
        )
    return [p[0] if len(p) > 1 else ONE_CAMERA for p in parts]


def _matched_cameras(found: _Found, pattern: str) -> list[str]:
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise DataError(f"--camera-pattern {pattern!r} is no regular expression: {error}") from None
    if not regex.groups:
        raise DataError(f"--camera-pattern {pattern!r} needs a group, such as 'cam(\\d+)_'")
    group: str | int = "camera" if "camera" in regex.groupindex else 1
    names: list[str] = []
    for path in found.images:
        match = regex.search(found.key(path))
        if match is None or not match[group]:
            raise DataError(
                f"--camera-pattern {pattern!r} finds no camera in {found.key(path)!r}; "
                "it has to match the path of every crop"
            )
        names.append(match[group])
    return names


def _find(folder: Path, root: Path) -> _Found:
    """All image files below `folder` in sorted order; other visible files are ignored by name."""
    if not folder.is_dir():
        raise NoImagesError(f"{folder} is not a folder; give the folder that holds the crops")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    images = tuple(path for path in files if path.suffix.lower() in IMAGE_SUFFIXES)
    ignored = tuple(
        Dropped(
            path.relative_to(root).as_posix(),
            f"file type {path.suffix or 'none'} is no image",
            image=False,
        )
        for path in files
        if path.suffix.lower() not in IMAGE_SUFFIXES
    )
    if not images:
        raise NoImagesError(
            f"no images below {folder} (looked for {', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return _Found(root, images, ignored)
