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
    find_cameras,
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
        ("7_c03_1.jpg", MarketName(7, "c3")),
        ("00ff_c1s1_0.jpg", None),
        ("0x1f_c1s1_0.jpg", None),
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


@pytest.mark.parametrize(
    ("paths", "cameras"),
    [
        (["a/0002_c1s1_0.jpg", "b/0002_c2s1_0.jpg"], ["c1", "c2"]),
        (["0001/x/0001_c2_f0046182.jpg", "0003_c1_f0046190.jpg"], ["c2", "c1"]),
        (["0001_c001_00016450_0.jpg", "0002_c020_00016450_0.jpg"], ["c1", "c20"]),
        (["0001/0001/0001_C5_F0099_X207050.jpg"], ["c5"]),
        (
            ["0000/0000_000_01_0303morning_0015_0.jpg", "1/0001_003_15_0113noon_1_0.jpg"],
            ["c1", "c15"],
        ),
        (["0001/0001C1T0001F001.jpg", "00-1/00-1C6T0001F001.jpg"], ["c1", "c6"]),
        (["0001_c1.jpg", "0001_c2.jpg"], ["c1", "c2"]),
        (["0001/0001_c1.jpg", "2/a/0002_c2.jpg"], ["c1", "c2"]),
        (["door/000001_c0.png", "lift/000001_c0.png"], ["door", "lift"]),
        (["7/000007_c0.png", "lift/000001_c0.png"], ["7", "lift"]),
        (["day/20260301_101530_22_x.jpg", "night/20260301_101530_23_x.jpg"], ["day", "night"]),
        (["a/0001_c1s1_0.jpg", "b/0001C1T0001F001.jpg"], ["a", "b"]),
        (["gallery/1.jpg", "café/1.jpg"], ["gallery", "café"]),
        (["cam1/0001/0001.jpg", "cam3/0001/0001.jpg"], ["cam1", "cam3"]),
        (["cam01/person06_cam03_frame136.jpg", "cam02/person03_cam01_2.jpg"], ["cam01", "cam02"]),
    ],
    ids=lambda value: value[0],
)
def test_names_of_public_sets_win_at_any_depth_and_no_other_name_does(
    paths: list[str], cameras: list[str]
) -> None:
    assert find_cameras(paths, None, outside_folders=None) == (cameras, [])


def test_one_other_name_makes_folders_count_with_a_warning() -> None:
    paths = ["a/0002_c1s1_0.jpg", "a/0002_c2s1_0.jpg", "b/sub/holiday.jpg"]
    cameras, (doubt,) = find_cameras(paths, None, outside_folders=None)
    assert cameras == ["a", "a", "b"]
    assert "1 of 3 files have no camera in their names" in doubt
    assert "first: b/sub/holiday.jpg" in doubt


def test_folders_of_people_are_doubted_by_their_names_or_by_their_number() -> None:
    named = [f"{n:04d}/{n:04d}_c{c}s1_0.jpg" for n in (1, 2, 3) for c in (1, 2)]
    cameras, doubts = find_cameras([*named, "0004/x.jpg"], None, outside_folders=None)
    assert cameras[0] == "0001"
    assert any("4 cameras of 7 crops look like people" in doubt for doubt in doubts)
    assert any("'0001' is also an identity in the names" in doubt for doubt in doubts)
    many = [f"p{n}/{k}.jpg" for n in range(16) for k in range(39)]
    _, (doubt,) = find_cameras(many, None, outside_folders=None)
    assert "16 cameras of 624 crops look like people, not cameras (about 39 crops each)" in doubt
    many = [f"cam{n}/{k}.jpg" for n in range(16) for k in range(40)]
    assert find_cameras(many, None, outside_folders=None)[1] == []


def test_a_folder_above_the_cameras_is_doubted() -> None:
    """PRID 2011, iLIDS-VID, the tracks that a detector's script cut out."""
    paths = [f"multi_shot/cam_{c}/person_{p:04d}/0001.png" for c in "ab" for p in (1, 2)]
    cameras, (doubt,) = find_cameras(paths, None, outside_folders=None)
    assert set(cameras) == {"multi_shot"}
    assert "lie in 2 folders of multi_shot (first: cam_a)" in doubt
    assert "if these are cameras, give multi_shot itself" in doubt
    tracks = [f"exp/crops/person/{t}/1.jpg" for t in range(3)]
    _, (doubt,) = find_cameras(tracks, None, outside_folders=None)
    assert "3 folders of exp/crops/person (first: 0)" in doubt
    for known in (["door/1.jpg", "lift/a/1.jpg", "lift/b/1.jpg"], ["door/a/1.jpg", "door/a/2.jpg"]):
        assert find_cameras(known, None, outside_folders=None)[1] == []
    assert find_cameras(paths, "(cam_.)", outside_folders=None)[1] == []
    assert find_cameras(["x/a/1_c1s1_0.jpg", "x/b/2_c2s1_0.jpg"], None, outside_folders=None) == (
        ["c1", "c2"],
        [],
    )


def test_a_pattern_that_finds_people_is_doubted() -> None:
    paths = [f"0001_c{c}s1_0.jpg" for c in (1, 2)] + [f"0002_c{c}s1_0.jpg" for c in (1, 2)]
    cameras, (doubt,) = find_cameras(paths, r"^(\d+)", outside_folders=None)
    assert cameras == ["0001", "0001", "0002", "0002"]
    assert "'0001' is also an identity" in doubt
    assert find_cameras(paths, r"_c(\d+)", outside_folders=None) == (["1", "2", "1", "2"], [])


@pytest.mark.parametrize(
    "paths",
    [
        ["train/1.jpg", "query/1.jpg", "gallery/1.jpg"],
        ["Train/1.jpg", "val/1.jpg", "door/1.jpg"],
        ["x/train/1.jpg", "x/test/1.jpg"],
        ["x/train/1.jpg"],
        ["detected/1.jpg", "labeled/1.jpg"],
        ["mask_test_v2/1.jpg", "door/1.jpg"],
    ],
)
def test_splits_are_no_cameras(paths: list[str]) -> None:
    with pytest.raises(DataError, match="parts of a labelled set, not cameras"):
        find_cameras(paths, None, outside_folders=None)
    assert find_cameras(paths, "(1)", outside_folders=None)[0] == ["1"] * len(paths)


def test_files_outside_folders_have_the_callers_camera_or_are_refused() -> None:
    paths = ["a/1.jpg", "2.jpg"]
    assert cameras_by_path(paths, outside_folders="x") == ["a", "x"]
    with pytest.raises(DataError, match=r"no camera is known for 2\.jpg"):
        cameras_by_path(paths, outside_folders=None)
    with pytest.raises(DataError, match="beside the folder 'a'"):
        cameras_by_path(paths, outside_folders="a")


def test_a_pattern_takes_its_group_camera_or_else_the_first() -> None:
    assert CameraPattern(r"cam(\d+)_(\d)").camera_of("day/cam7_1.png") == "7"
    assert CameraPattern(r"(x)?cam(?P<camera>\d+)").camera_of("cam12.png") == "12"
    with pytest.raises(DataError, match=r"finds no camera in 'a\.png'"):
        CameraPattern(r"cam(\d+)").camera_of("a.png")


def test_codes_follow_numbers_and_numbers_follow_names() -> None:
    assert camera_codes(["c10", "c2", "c2", "c1"]) == {"c1": 0, "c2": 1, "c10": 2}
    assert camera_codes(["\u00b2", "10", "2"]) == {"2": 0, "10": 1, "\u00b2": 2}
    assert camera_numbers(["c2", "c10"]) == [2, 10]


def test_no_torch_is_needed() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import adapt.data.catalog.cameras, adapt.data.catalog.folders\n"
        "assert not any(name.split('.')[0] == 'cv2' for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("pattern", [None, "([^/]+)/"])
def test_a_camera_that_is_no_text_is_refused_by_name(pattern: str | None) -> None:
    with pytest.raises(DataError, match=r"K\udcfcche/2\.png: .*not UTF-8.*rename") as told:
        find_cameras(["door/1.png", "K\udcfcche/2.png"], pattern, outside_folders=None)
    assert "128" not in str(told.value)


@pytest.mark.parametrize("folder", ["2026-03-01", "20260301", "2026_03_01", "2026/03/01"])
def test_dates_are_doubted_as_cameras(folder: str) -> None:
    doubts = find_cameras([f"{folder}/1.png", "door/1.png"], None, outside_folders=None)[1]
    assert [doubt for doubt in doubts if "looks like a date (1 of 2 cameras do)" in doubt]


def test_numbers_are_no_dates() -> None:
    paths = ["2026/1.png", "20269901/1.png", "2026-0301/1.png"]
    assert not find_cameras(paths, None, outside_folders=None)[1]
