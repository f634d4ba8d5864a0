"""Which files become crops, and which camera each belongs to."""

from __future__ import annotations

from pathlib import Path
from unicodedata import normalize

import pytest

from adapt.data.catalog.cameras import ONE_CAMERA
from adapt.data.catalog.folders import read_market, read_site
from adapt.errors import DataError, NoImagesError
from adapt.types import UNLABELLED

NFC, NFD = "Café", normalize("NFD", "Café")


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


def test_cameras_of_folders_of_people_are_in_the_file_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder for each person, in a labelled set and as a plain site: as `read_market` has it."""
    names = [f"{p:04d}/{p:04d}_c{c}s1_000001_00.png" for p in (1, 3) for c in (1, 2)]
    touch(tmp_path / "set" / "bounding_box_train", *names)
    labelled = read_market(tmp_path / "set", ("train",))
    wanted = [labelled.cameras[s.camera] for s in labelled.samples]
    for root in (tmp_path / "set", tmp_path / "set" / "bounding_box_train"):
        site = read_site(root)
        assert [site.cameras[s.camera] for s in site.samples] == wanted
        assert site.cameras == ("c1", "c2")
    assert not caplog.records


def test_folders_of_people_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, *(f"person{n}/{k}.png" for n in range(20) for k in range(2)))
    assert len(read_site(tmp_path).cameras) == 20
    assert (
        "20 cameras of 40 crops look like people, not cameras (about 2 crops each)" in caplog.text
    )


def test_a_labelled_set_whose_names_are_spoiled_is_refused_as_a_site_too(tmp_path: Path) -> None:
    touch(tmp_path, "bounding_box_train/0001_c1s1_0_0.jpg", "bounding_box_train/holiday.jpg")
    with pytest.raises(DataError, match=r"1 of 2 files .* holiday.jpg"):
        read_site(tmp_path)
    assert read_site(tmp_path, "(.)jpg").cameras == (".",), "a pattern decides"


def test_linked_folders_are_cameras(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.png", "site/cam2/1.png")
    (tmp_path / "site" / "cam1").symlink_to(tmp_path / "elsewhere")
    crops = read_site(tmp_path / "site")
    assert crops.cameras == ("cam1", "cam2")
    assert [s.key for s in crops.samples] == ["cam1/1.png", "cam2/1.png"]


@pytest.mark.parametrize("name", ["20231012123456789012345_c1s1_0_0.jpg", "-2_c1s1_0_0.jpg"])
def test_numbers_that_no_set_has_are_refused_where_they_are_read(tmp_path: Path, name: str) -> None:
    touch(tmp_path, f"bounding_box_train/{name}")
    with pytest.raises(DataError, match=r"numbers go from 0 \(-1 for nobody known\) to 9223"):
        read_market(tmp_path, ("train",))
    assert read_site(tmp_path).cameras == ("c1",), "identities are not read"
    (tmp_path / "bounding_box_train" / name).rename(
        tmp_path / "bounding_box_train" / f"1_c{'9' * 30}s1_0_0.jpg"
    )
    with pytest.raises(DataError, match=r"camera c9+, but numbers go"):
        read_market(tmp_path, ("train",))


def test_zeros_in_front_do_not_make_another_camera(tmp_path: Path) -> None:
    touch(tmp_path, "bounding_box_train/1_c1s1_0_0.jpg", "bounding_box_train/0001_c01s1_1_0.jpg")
    for crops in (read_site(tmp_path), read_market(tmp_path, ("train",))):
        assert crops.cameras == ("c1",)


def test_largest_numbers_are_read(tmp_path: Path) -> None:
    most = 2**63 - 1
    touch(tmp_path, f"bounding_box_train/{most}_c{most}s1_0_0.jpg")
    crops = read_market(tmp_path, ("train",))
    assert crops.persons.tolist() == [most]


def test_flat_folder_is_one_camera(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg", ".hidden.jpg")
    crops = read_site(tmp_path)
    assert crops.cameras == (ONE_CAMERA,)
    assert len(crops) == 2


def test_pattern_names_the_camera(tmp_path: Path) -> None:
    touch(tmp_path, "x_cam7_1.jpg", "x_cam12_1.jpg")
    assert read_site(tmp_path, r"cam(\d+)").cameras == ("7", "12")
    assert read_site(tmp_path, r"(x)_cam(?P<camera>\d+)").cameras == ("7", "12")


def test_two_unicode_forms_of_a_folder_are_one_camera(tmp_path: Path) -> None:
    touch(tmp_path, "Hall/a.jpg", f"{NFD}/b.jpg", f"{NFC}/c.jpg")
    found = read_site(tmp_path)
    assert found.cameras == (NFC, "Hall")
    assert {s.key: found.cameras[s.camera] for s in found.samples} == {
        "Hall/a.jpg": "Hall",
        f"{NFD}/b.jpg": NFC,
        f"{NFC}/c.jpg": NFC,
    }
    assert read_site(tmp_path, f"^({NFC}|Hall)/").cameras == (NFC, "Hall")
    assert read_site(tmp_path, f"^({NFD}|Hall)/").cameras == (NFC, "Hall")


@pytest.mark.parametrize("pattern", [r"^(\w+)", r"^(Caf.)", r"^([^/]{1,4})"])
def test_a_pattern_does_not_cut_accents_off(tmp_path: Path, pattern: str) -> None:
    grave = "Caf\u00e8"
    touch(
        tmp_path, f"{NFD}/a.jpg", f"{NFC}/b.jpg", f"{normalize('NFD', grave)}/c.jpg", "Cafe/d.jpg"
    )
    found = read_site(tmp_path, pattern)
    assert {s.path.name: found.cameras[s.camera] for s in found.samples} == {
        "a.jpg": NFC,
        "b.jpg": NFC,
        "c.jpg": grave,
        "d.jpg": "Cafe",
    }


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
    with pytest.raises(
        NoImagesError, match=r"no images below .*\); give a folder that holds crops"
    ):
        read_site(tmp_path)
    touch(tmp_path, "notes.txt")
    with pytest.raises(NoImagesError, match=r"no images below .*; first .* notes\.txt, file type"):
        read_site(tmp_path)


def test_crops_outside_folders_share_no_camera_with_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, f"{ONE_CAMERA}/1.jpg", "door/1.jpg")
    assert read_site(tmp_path).cameras == (ONE_CAMERA, "door"), "alone the name is a name"
    touch(tmp_path, "2.jpg")
    with pytest.raises(DataError, match=f"beside the folder '{ONE_CAMERA}'"):
        read_site(tmp_path)
    (tmp_path / ONE_CAMERA).rename(tmp_path / "lift")
    assert read_site(tmp_path).cameras == (ONE_CAMERA, "door", "lift")
