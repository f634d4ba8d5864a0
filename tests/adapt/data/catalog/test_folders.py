"""Which files become crops, and which camera each belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapt.data.catalog.cameras import ONE_CAMERA
from adapt.data.catalog.folders import read_market, read_site
from adapt.errors import DataError, NoImagesError
from adapt.types import UNLABELLED


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"never opened here")


def test_market_names_give_person_and_camera(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "bounding_box_train/0002_c1s1_000451_03.jpg",
        "bounding_box_train/0007_c10s2_000001_00.png",
        "bounding_box_train/-1_c3s1_000001_00.jpg",
        "bounding_box_train/Thumbs.db",
    )
    crops = read_market(tmp_path, ("train",))
    assert [s.person for s in crops.samples] == [-1, 2, 7]
    assert [crops.cameras[s.camera] for s in crops.samples] == ["c3", "c1", "c10"]
    assert crops.cameras == ("c1", "c3", "c10"), "cameras are ordered as numbers"
    assert [d.key for d in crops.dropped] == ["bounding_box_train/Thumbs.db"]


def test_market_splits_are_read_in_the_order_asked(tmp_path: Path) -> None:
    touch(tmp_path, "query/0001_c1s1_0_0.jpg", "bounding_box_test/0001_c2s1_0_0.jpg")
    crops = read_market(tmp_path, ("query", "gallery"))
    assert [s.key.split("/")[0] for s in crops.samples] == ["query", "bounding_box_test"]


def test_market_rejects_other_names_and_says_which(tmp_path: Path) -> None:
    touch(tmp_path, "bounding_box_train/0001_c1s1_0_0.jpg", "bounding_box_train/holiday.jpg")
    with pytest.raises(DataError, match=r"1 of 2 files .* holiday.jpg"):
        read_market(tmp_path, ("train",))


def test_site_never_knows_identities(tmp_path: Path) -> None:
    touch(tmp_path, "bounding_box_train/0001_c1s1_0_0.jpg", "query/0002_c2s1_0_0.jpg")
    crops = read_site(tmp_path)
    assert [s.person for s in crops.samples] == [UNLABELLED]
    assert crops.cameras == ("c1",)


def test_cameras_are_sub_folders_and_equal_file_names_both_count(tmp_path: Path) -> None:
    touch(tmp_path, "door/0001.jpg", "lift/0001.jpg", "lift/night/0002.jpg")
    crops = read_site(tmp_path)
    assert crops.cameras == ("door", "lift")
    assert [s.key for s in crops.samples] == [
        "door/0001.jpg",
        "lift/0001.jpg",
        "lift/night/0002.jpg",
    ]
    assert [s.camera for s in crops.samples] == [0, 1, 1]


def test_folders_win_over_numbers_in_names(tmp_path: Path) -> None:
    """FRAME_cropN names look like Market-1501's; the folders know better."""
    touch(tmp_path, "door/000001_c0.png", "query/000001_c0.png", "query/000001_c1.png")
    crops = read_site(tmp_path)
    assert crops.cameras == ("door", "query")
    assert len(crops) == 3


def test_flat_folder_is_one_camera(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg", ".hidden.jpg")
    crops = read_site(tmp_path)
    assert crops.cameras == (ONE_CAMERA,)
    assert len(crops) == 2


def test_pattern_names_the_camera(tmp_path: Path) -> None:
    touch(tmp_path, "x_cam7_1.jpg", "x_cam12_1.jpg")
    assert read_site(tmp_path, r"cam(\d+)").cameras == ("7", "12")
    assert read_site(tmp_path, r"(x)_cam(?P<camera>\d+)").cameras == ("7", "12")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("cam(\\d+", "not a valid regular expression"),
        ("cam", "needs a group"),
        ("gate(\\d)", "finds no camera"),
    ],
)
def test_bad_patterns_are_explained(tmp_path: Path, pattern: str, message: str) -> None:
    touch(tmp_path, "x_cam7_1.jpg")
    with pytest.raises(DataError, match=message):
        read_site(tmp_path, pattern)


def test_no_images(tmp_path: Path) -> None:
    with pytest.raises(NoImagesError, match="not a folder"):
        read_site(tmp_path / "absent")
    touch(tmp_path, "notes.txt")
    with pytest.raises(NoImagesError, match="no images below"):
        read_site(tmp_path)


def test_crops_outside_folders_share_no_camera_with_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, f"{ONE_CAMERA}/1.jpg", "door/1.jpg")
    assert read_site(tmp_path).cameras == (ONE_CAMERA, "door"), "alone the name is a name"
    touch(tmp_path, "2.jpg")
    with pytest.raises(DataError, match=f"beside the folder '{ONE_CAMERA}'"):
        read_site(tmp_path)
    (tmp_path / ONE_CAMERA).rename(tmp_path / "lift")
    assert read_site(tmp_path).cameras == (ONE_CAMERA, "door", "lift")
