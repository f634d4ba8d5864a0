"""The parts of a labelled set, and the folders that are such parts: they are never cameras."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Literal

Split = Literal["train", "query", "gallery"]

SPLIT_FOLDERS: dict[Split, str] = {
    "train": "bounding_box_train",
    "query": "query",
    "gallery": "bounding_box_test",
}
"""Of Market-1501 and DukeMTMC-reID."""

LISTS: dict[Split, tuple[str, ...]] = {
    "train": ("list_train.txt", "list_val.txt"),
    "query": ("list_query.txt",),
    "gallery": ("list_gallery.txt",),
}
"""Of MSMT17. The papers train on both lists: 32,621 crops of 1,041 people."""

LISTED_FOLDERS: dict[Split, tuple[str, str]] = {
    "train": ("train", "mask_train_v2"),
    "query": ("test", "mask_test_v2"),
    "gallery": ("test", "mask_test_v2"),
}
"""Of MSMT17, versions 1 and 2."""

MARKS = frozenset(
    {SPLIT_FOLDERS["train"], SPLIT_FOLDERS["gallery"], "mask_train_v2", "mask_test_v2"}
    | {name for names in LISTS.values() for name in names}
)
"""Names that nothing but a labelled set has."""

_WORDS = frozenset(
    {
        *("train", "training", "trainval", "val", "valid", "validation", "test", "testing"),
        *("query", "gallery", "probe", "bbox_train", "bbox_test", "gt_bbox"),
        *("image_train", "image_query", "image_test"),
        *("train_all", "train_set", "test_set", "query_set", "gallery_set"),
        *("detected", "labeled", "labelled", "images_detected", "images_labeled"),
        *MARKS,
    }
)
"""Names of splits in public sets, and of the variants of CUHK03; a camera may have one, too."""


def is_split_name(folder: str) -> bool:
    """Whether a folder's name is that of a split, or of a variant of CUHK03."""
    return folder.casefold() in _WORDS


def marked_folders(paths: Sequence[str]) -> dict[str, list[str]]:
    """Folders that hold marks of a labelled set, and the marks.

    paths: POSIX, of files below a folder, which itself is `.` in the answer.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        *folders, _ = parts = PurePosixPath(path).parts
        for depth, part in enumerate(parts):
            if part in MARKS:
                found["/".join(folders[:depth]) or "."].add(part)
    return {folder: sorted(found[folder]) for folder in sorted(found)}


def split_folders(paths: Sequence[str]) -> list[str]:
    """Folders that by their names are splits or variants of a set, or empty where none has to be.

    Two such names side by side are splits, and so is a single folder of such a name, alone there.
    One beside others may be a camera: a museum has a gallery.
    paths: POSIX, of files below a folder.
    """
    inside: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for path in paths:
        parts = PurePosixPath(path).parts
        for depth in range(min(len(parts), 4)):
            name = parts[depth] if depth + 1 < len(parts) else ""  # a file is not told apart
            inside[parts[:depth]].add(name)
    for above, names in sorted(inside.items(), key=lambda each: len(each[0])):
        words = sorted(filter(is_split_name, names))
        alone = len(names) == 1 and all(len(inside[above[:d]]) == 1 for d in range(len(above)))
        if len(words) > 1 or (words and alone):
            return ["/".join((*above, word)) for word in words]
    return []
