"""Find the crops below a folder: labelled sets in their published layouts, plain site folders.

Nothing is decoded here; `adapt.data.decoding.decode` does that and leaves out what cannot be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adapt.data.catalog.cameras import (
    ONE_CAMERA,
    CameraPattern,
    camera_codes,
    cameras_by_path,
    market_name,
)
from adapt.data.catalog.image_files import IMAGE_SUFFIXES, image_files
from adapt.data.catalog.manifest import (
    Problems,
    SiteManifest,
    find_manifest,
    note_shared_tracks,
    read_manifest,
)
from adapt.data.catalog.msmt17 import LISTS, msmt17_splits, read_msmt17
from adapt.data.catalog.splits import Split
from adapt.errors import DataError, NoImagesError
from adapt.types import UNLABELLED, UNTRACKED, CropSet, Dropped, Sample
from models.wording import plural

SPLIT_FOLDERS: dict[Split, str] = {
    "train": "bounding_box_train",
    "query": "query",
    "gallery": "bounding_box_test",
}


@dataclass(frozen=True)
class _Found:
    root: Path
    images: tuple[Path, ...]
    ignored: tuple[Dropped, ...]

    @property
    def keys(self) -> list[str]:
        """Paths of the images below `root`."""
        return [path.relative_to(self.root).as_posix() for path in self.images]


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
    named = [(path, name) for path in images if (name := market_name(path.name))]
    if len(named) < len(images):
        good = {path for path, _ in named}
        wrong = [path for path in images if path not in good]
        raise DataError(
            f"{len(wrong)} of {plural(len(images), 'file')} below {root} do not have a name "
            f"like Market-1501 (PPPP_cC...), first: {wrong[0].name}; rename them or use a plain "
            "site folder"
        )
    cameras = camera_codes(name.camera for _, name in named)
    samples = tuple(
        Sample(path, path.relative_to(root).as_posix(), cameras[name.camera], name.person)
        for path, name in named
    )
    return CropSet(root, samples, tuple(cameras), ignored)


def read_site(root: Path, camera_pattern: str | None = None) -> CropSet:
    """List the unlabelled crops of a site; identities in file names are never read.

    root: a folder, or a manifest (`adapt.data.catalog.manifest`); a folder that holds one is read
    by it, and the manifest's crops have tracks and times. Of a labelled set (see `read_labelled`)
    the crops are those for training, with their cameras.
    Cameras, by the first rule that applies: the manifest's column; `camera_pattern`
    (`adapt.data.catalog.cameras.CameraPattern`, on paths below `root`); Market-1501 file names
    (`PPPP_cC...`, all of them, in one folder); the first folder below `root`; otherwise one camera
    for all.
    Raises NoImagesError; DataError when the pattern is not a valid regular expression, has no group
    or does not match every file, when a folder has the name of the camera of crops outside
    folders, when a folder cannot be read, or as `read_manifest`.
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
        folder = f"{market.name}/" if base is market else ""
        names = _camera_names(found.keys, folder, camera_pattern)
    cameras = camera_codes(names)
    samples = tuple(
        Sample(path, key, cameras[name], UNLABELLED)
        for path, key, name in zip(found.images, found.keys, names, strict=True)
    )
    return CropSet(root, samples, tuple(cameras), found.ignored)


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
        names = _camera_names([row.path for row in rows], "", pattern)
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
    return CropSet(root, samples, tuple(cameras), manifest=manifest.file.name)


def _listed_site(root: Path, pattern: str | None) -> tuple[_Found, list[str]]:
    crops = read_msmt17(root, ("train",))
    found = _Found(root, tuple(sample.path for sample in crops.samples), ())
    if pattern is not None:
        return found, _camera_names(found.keys, "", pattern)
    return found, [crops.cameras[sample.camera] for sample in crops.samples]


def _camera_names(keys: Sequence[str], folder: str, pattern: str | None) -> list[str]:
    """Cameras of a site's crops. folder: the part of the keys that all crops share, or empty."""
    if pattern is not None:
        chosen = CameraPattern(pattern)
        return [chosen.camera_of(key) for key in keys]
    below = [key.removeprefix(folder) for key in keys]
    return cameras_by_path(below, names_in_subfolders=False, outside_folders=ONE_CAMERA)


def _find(folder: Path, root: Path) -> _Found:
    """All image files below `folder` in sorted order; other visible files are ignored by name."""
    if not folder.is_dir():
        raise NoImagesError(f"{folder} is not a folder; give the folder that holds the crops")
    files = image_files(folder)
    ignored = tuple(
        Dropped(
            path.relative_to(root).as_posix(),
            f"file type {path.suffix or 'none'} is not an image type",
            image=False,
        )
        for path in files.others
    )
    if not files.images:
        raise NoImagesError(
            f"no images below {folder} (looked for {', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return _Found(root, files.images, ignored)
