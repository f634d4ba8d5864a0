"""Which folders are parts of a labelled set, by their names."""

from __future__ import annotations

import pytest

from adapt.data.catalog.splits import (
    LISTED_FOLDERS,
    LISTS,
    MARKS,
    SPLIT_FOLDERS,
    marked_folders,
    split_folders,
)


def test_marks_are_what_only_labelled_sets_have() -> None:
    """`query`, `train` and `test` may be cameras; all else that the readers look for may not."""
    listed = {name for names in (*LISTS.values(), *LISTED_FOLDERS.values()) for name in names}
    assert {*SPLIT_FOLDERS.values(), *listed} - MARKS == {"query", "train", "test"}


def test_marks_are_found_at_any_depth() -> None:
    paths = ["bounding_box_test/1.png", "a/b/list_val.txt", "a/b/list_train.txt", "door/1.png"]
    assert marked_folders(paths) == {
        ".": ["bounding_box_test"],
        "a/b": ["list_train.txt", "list_val.txt"],
    }
    assert marked_folders(["door/1.png"]) == {}
    assert marked_folders(["cam1", "bounding_box_train"]) == {".": ["bounding_box_train"]}


@pytest.mark.parametrize(
    ("paths", "splits"),
    [
        (["train/1.png", "query/1.png", "door/1.png"], ["query", "train"]),
        (["TEST/1.png"], ["TEST"]),
        (["TEST/1.png", "2.png"], []),
        (["gallery/1.png", "door/1.png"], []),
        (["x/y/train/1.png"], ["x/y/train"]),
        (["x/train/1.png", "door/1.png"], []),
        (["x/train/1.png", "x/val/1.png", "door/1.png"], ["x/train", "x/val"]),
        (["train.png", "test.png"], []),
        (["door/train/1.png", "door/2.png"], []),
    ],
)
def test_names_of_splits_count_side_by_side_or_alone(paths: list[str], splits: list[str]) -> None:
    assert split_folders(paths) == splits
