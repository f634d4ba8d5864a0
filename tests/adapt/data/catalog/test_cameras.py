"""Which camera took a file, and that no torch is needed to tell."""

from __future__ import annotations

import subprocess
import sys

import pytest

from adapt.data.catalog.cameras import (
    CameraPattern,
    MarketName,
    camera_codes,
    camera_numbers,
    cameras_by_path,
    market_name,
    msmt17_camera,
)
from adapt.errors import DataError


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("0002_c1s1_000451_03.jpg", MarketName(2, "c1")),
        ("0001_c12_f0046182.jpg", MarketName(1, "c12")),
        ("-1_c3s1_000401_03.jpg", MarketName(-1, "c3")),
        ("x0002_c1s1.jpg", None),
        ("0002_cam1.jpg", None),
        ("0002c1.jpg", None),
    ],
)
def test_names_of_market_1501(name: str, found: MarketName | None) -> None:
    assert market_name(name) == found


@pytest.mark.parametrize(
    ("name", "found"),
    [("0000_000_01_0303morning_0015_0.jpg", "c1"), ("0007_12_15_x.jpg", "c15"), ("0_c1.jpg", None)],
)
def test_names_of_msmt17(name: str, found: str | None) -> None:
    assert msmt17_camera(name) == found


def test_file_names_count_in_subfolders_only_where_the_caller_says_so() -> None:
    paths = ["a/0002_c1s1_0.jpg", "b/0002_c2s1_0.jpg"]
    for anywhere, cameras in ((True, ["c1", "c2"]), (False, ["a", "b"])):
        found = cameras_by_path(paths, names_in_subfolders=anywhere, outside_folders="all")
        assert found == cameras
    flat = [path.partition("/")[2] for path in paths]
    assert cameras_by_path(flat, names_in_subfolders=False, outside_folders=None) == ["c1", "c2"]


def test_one_other_name_makes_folders_count() -> None:
    paths = ["a/0002_c1s1_0.jpg", "b/sub/holiday.jpg"]
    assert cameras_by_path(paths, names_in_subfolders=True, outside_folders=None) == ["a", "b"]


def test_files_outside_folders_have_the_callers_camera_or_are_refused() -> None:
    paths = ["a/1.jpg", "2.jpg"]
    assert cameras_by_path(paths, names_in_subfolders=True, outside_folders="x") == ["a", "x"]
    with pytest.raises(DataError, match=r"no camera is known for 2\.jpg"):
        cameras_by_path(paths, names_in_subfolders=True, outside_folders=None)
    with pytest.raises(DataError, match="beside the folder 'a'"):
        cameras_by_path(paths, names_in_subfolders=True, outside_folders="a")


def test_a_pattern_takes_its_group_camera_or_else_the_first() -> None:
    assert CameraPattern(r"cam(\d+)_(\d)").camera_of("day/cam7_1.png") == "7"
    assert CameraPattern(r"(x)?cam(?P<camera>\d+)").camera_of("cam12.png") == "12"
    with pytest.raises(DataError, match=r"finds no camera in 'a\.png'"):
        CameraPattern(r"cam(\d+)").camera_of("a.png")


def test_codes_follow_numbers_and_numbers_follow_names() -> None:
    assert camera_codes(["c10", "c2", "c2", "c1"]) == {"c1": 0, "c2": 1, "c10": 2}
    assert camera_numbers(["c2", "c10"]) == [2, 10]


def test_no_torch_is_needed() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import adapt.data.catalog.cameras, adapt.data.catalog.folders\n"
        "assert not any(name.split('.')[0] == 'cv2' for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
