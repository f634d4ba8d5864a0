from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path
from unicodedata import normalize

import pytest

from adapt.errors import DataError
from cli.crop_files import MAX_FILE_BYTES, FileToEnroll, find_crops
from service.errors import BadSightingError


def lay(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def seen(
    root: Path, camera: str | None = None, pattern: str | None = None
) -> list[tuple[str, str]]:
    return [(crop.key, crop.camera) for crop in find_crops([root], camera, pattern).crops]


def test_folders_are_cameras_and_names_may_repeat(tmp_path: Path) -> None:
    lay(tmp_path, "c2/a.png", "c1/b.JPG", "c1/a.png", "c1/deep/er.webp")
    assert seen(tmp_path) == [
        ("c1/a.png", "c1"),
        ("c1/b.JPG", "c1"),
        ("c1/deep/er.webp", "c1"),
        ("c2/a.png", "c2"),
    ]


def test_one_camera_for_all(tmp_path: Path) -> None:
    lay(tmp_path, "c2/a.png", "b.png")
    assert seen(tmp_path, camera="door") == [("b.png", "door"), ("c2/a.png", "door")]


@pytest.mark.parametrize("name", ["manifest.csv", "Manifest.CSV"])
@pytest.mark.parametrize("as_folder", [True, False])
def test_a_manifest_says_camera_track_and_time(name: str, as_folder: bool, tmp_path: Path) -> None:
    """As `adapt --target` reads it; what it does not list is not enrolled."""
    lay(tmp_path, "a/1.png", "a/2.png", "b/3.png")
    rows = ("path,camera,track,time", "a/1.png,door,t1,1772352902.5", "b/3.png,lift,,")
    (tmp_path / name).write_text("\n".join(rows))
    found = find_crops([tmp_path if as_folder else tmp_path / name], None, None)
    one, other = (crop.read() for crop in found.crops)
    assert (one.camera, one.track) == ("door", "t1")
    assert one.time == datetime.fromtimestamp(1772352902.5, UTC)
    assert (other.camera, other.track) == ("lift", "")
    assert other.time == datetime.fromtimestamp((tmp_path / "b/3.png").stat().st_mtime, UTC)
    assert [(each.path.name, each.reason) for each in found.left_out] == [
        ("2.png", f"not listed in {name}")
    ]
    for camera, pattern in (("c1", None), (None, "^(.)")):
        with pytest.raises(DataError, match="has a column 'camera', and --camera"):
            find_crops([tmp_path], camera, pattern)


def test_a_manifest_without_cameras(tmp_path: Path) -> None:
    lay(tmp_path, "a/1.png", "b/3.png")
    (tmp_path / "manifest.csv").write_text("path,track\nb/3.png,t2\na/1.png,\n")
    assert seen(tmp_path) == [("b/3.png", "b"), ("a/1.png", "a")]
    assert seen(tmp_path, camera="hall") == [("b/3.png", "hall"), ("a/1.png", "hall")]
    assert seen(tmp_path, pattern="/(.)") == [("b/3.png", "3"), ("a/1.png", "1")]
    tracks = [crop.read().track for crop in find_crops([tmp_path], None, None).crops]
    assert tracks == ["t2", ""]


def test_market_names(tmp_path: Path) -> None:
    lay(tmp_path, "query/0002_c1s1_000451_03.jpg", "bounding_box_test/-1_c3s1_000401_03.jpg")
    assert [camera for _, camera in seen(tmp_path)] == ["c3", "c1"]


def test_folders_of_people_are_doubted_and_splits_are_refused(tmp_path: Path) -> None:
    lay(tmp_path / "people", "0001/0001_c1s1_0.jpg", "0002/0002_c1s1_0.jpg", "0003/x.jpg")
    found = find_crops([tmp_path / "people"], None, None)
    assert any("look like people, not cameras" in doubt for doubt in found.doubts)
    lay(tmp_path / "set", "train/1.jpg", "test/1.jpg")
    with pytest.raises(DataError, match="parts of a labelled set, not cameras"):
        find_crops([tmp_path / "set"], None, None)
    assert len(find_crops([tmp_path / "set"], "door", None).crops) == 2


def test_linked_folders_are_cameras_and_broken_ones_are_told(tmp_path: Path) -> None:
    lay(tmp_path, "elsewhere/a.png", "site/cam2/b.png")
    (tmp_path / "site" / "cam1").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "site" / "cam3").symlink_to(tmp_path / "gone")
    found = find_crops([tmp_path / "site"], None, None)
    assert [(crop.key, crop.camera) for crop in found.crops] == [
        ("cam1/a.png", "cam1"),
        ("cam2/b.png", "cam2"),
    ]
    assert [(each.path.name, each.image) for each in found.left_out] == [("cam3", True)]


@pytest.mark.parametrize("pattern", [r"cam(\d+)_", r"(x)?cam(?P<camera>\d+)_"])
def test_a_pattern_is_searched_in_the_path(tmp_path: Path, pattern: str) -> None:
    lay(tmp_path, "day1/cam7_1.png", "day2/cam8_1.png")
    assert [camera for _, camera in seen(tmp_path, pattern=pattern)] == ["7", "8"]


def test_what_is_no_image_and_what_is_hidden_is_told(tmp_path: Path) -> None:
    lay(tmp_path, "c/a.png", "c/notes.txt", "Makefile", ".x.png", ".cache/y.png")
    found = find_crops([tmp_path], None, None)
    assert [crop.key for crop in found.crops] == ["c/a.png"]
    assert {each.path.name: each.reason for each in found.left_out} == {
        ".cache": "a hidden folder, which is not searched",
        ".x.png": "a hidden file",
        "Makefile": "file type none is not an image type; add .jpg if it is an image",
        "notes.txt": "file type .txt is not an image type",
    }


def test_files_and_folders_together_each_file_once(tmp_path: Path) -> None:
    lay(tmp_path, "c/a.png", "c/b.data")
    paths = [tmp_path, tmp_path / "c" / "a.png", tmp_path / "c" / "b.data"]
    found = find_crops(paths, "c", None)
    assert sorted(crop.path.name for crop in found.crops) == ["a.png", "b.data"]


@pytest.mark.parametrize(
    ("names", "pattern", "message"),
    [
        (["a.png"], None, "no camera is known for a.png"),
        (["c/a.png", "b.png"], None, "no camera is known for b.png"),
        (["c/a.png"], "(", "not a valid regular expression"),
        (["c/a.png"], "c", "needs a group"),
        (["c/a.png"], "(d)", "finds no camera in 'c/a.png'"),
        (["c/a.png"], "(d)?", "finds no camera in 'c/a.png'"),
    ],
)
def test_no_camera(tmp_path: Path, names: list[str], pattern: str | None, message: str) -> None:
    lay(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        find_crops([tmp_path], None, pattern)


def test_what_is_given_has_to_be_a_file_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        find_crops([tmp_path / "absent"], "c", None)
    os.mkfifo(tmp_path / "pipe.jpg")  # reading it would wait for ever
    with pytest.raises(DataError, match="is neither a file nor a folder"):
        find_crops([tmp_path / "pipe.jpg"], "c", None)


def test_the_sighting_of_a_file(tmp_path: Path) -> None:
    path = lay(tmp_path, "c/a.png") / "c" / "a.png"
    os.utime(path, (1_700_000_000, 1_700_000_000))
    new = FileToEnroll(path, "c/a.png", "c1").read()
    assert (new.image, new.camera, new.attributes) == (b"c/a.png", "c1", {"file": "c/a.png"})
    assert new.time == datetime.fromtimestamp(1_700_000_000, UTC)


def test_the_id_is_of_camera_and_place(tmp_path: Path) -> None:
    path = lay(tmp_path, "a/x.png") / "a" / "x.png"
    first = FileToEnroll(path, "x.png", "c1").read().id
    assert FileToEnroll(path, "a/x.png", "c1").read().id == first
    assert FileToEnroll(tmp_path / "a" / ".." / "a" / "x.png", "k", "c1").read().id == first
    assert FileToEnroll(path, "x.png", "c2").read().id != first
    copy = tmp_path / "x.png"
    copy.write_bytes(path.read_bytes())
    assert FileToEnroll(copy, "x.png", "c1").read().id != first
    path.write_bytes(b"other")
    assert FileToEnroll(path, "x.png", "c1").read().id == first


def test_a_folder_in_another_unicode_form_keeps_its_ids(tmp_path: Path) -> None:
    """Ids are of names as they are on disk: files that were enrolled before are replaced."""
    folder = normalize("NFD", "Café")
    (crop,) = find_crops([lay(tmp_path, f"{folder}/a.png")], None, None).crops
    parts = [hashlib.sha256(part.encode()).digest() for part in (folder, crop.place)]
    new = crop.read()
    assert new.id == hashlib.sha256(b"".join(parts)).hexdigest()[:32]
    assert (new.camera, new.attributes) == ("Café", {"file": "Café/a.png"})


@pytest.mark.parametrize(("pattern", "spelled"), [(r"^(\w+)", "Cafe"), ("^(Caf\u00e9)", "Café")])
def test_a_pattern_reads_accents_of_another_unicode_form_and_keeps_ids(
    tmp_path: Path, pattern: str, spelled: str
) -> None:
    """Ids are of what the pattern finds in the name as it is on disk, where it finds anything."""
    folder = normalize("NFD", "Café")
    (crop,) = find_crops([lay(tmp_path, f"{folder}/a.png")], None, pattern).crops
    parts = [hashlib.sha256(part.encode()).digest() for part in (spelled, crop.place)]
    new = crop.read()
    assert new.id == hashlib.sha256(b"".join(parts)).hexdigest()[:32]
    assert (crop.camera, new.camera) == ("Café", "Café")


def test_a_link_in_the_folder_of_another_camera_counts(tmp_path: Path) -> None:
    lay(tmp_path, "c1/a.png", "c2/b.png")
    (tmp_path / "c2" / "a.png").symlink_to(tmp_path / "c1" / "a.png")
    assert seen(tmp_path) == [("c1/a.png", "c1"), ("c2/a.png", "c2"), ("c2/b.png", "c2")]
    ids = {crop.read().id for crop in find_crops([tmp_path], None, None).crops}
    assert len(ids) == 3


def test_a_name_that_is_no_text_can_be_enrolled(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    path.write_bytes(b"x")
    (crop,) = find_crops([tmp_path], "c", None).crops
    assert crop.read().attributes == {"file": "?.png"}


def test_a_name_of_two_lines_can_be_enrolled(tmp_path: Path) -> None:
    (crop,) = find_crops([lay(tmp_path, "c/a\nb.png")], None, None).crops
    assert crop.read().attributes == {"file": "c/a\\nb.png"}


def test_what_can_be_no_crop_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "film.png"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(BadSightingError, match="are too many for a crop"):
        FileToEnroll(path, "film.png", "c").read()


@pytest.mark.parametrize("camera", ["", "x" * 129, "door ", "K\udcfcche"])
def test_a_camera_that_cannot_be_stored_is_one_error(tmp_path: Path, camera: str) -> None:
    lay(tmp_path, "1.png", "2.png")
    with pytest.raises(DataError, match=r"^--camera"):
        find_crops([tmp_path], camera, None)


def test_archives_are_named(tmp_path: Path) -> None:
    lay(tmp_path, "site.zip", "site.tar.gz")
    for name in ("site.zip", "site.tar.gz"):
        with pytest.raises(DataError, match="is an archive: unpack it"):
            find_crops([tmp_path / name], None, None)


def test_the_folder_of_one_camera_is_told_its_option(tmp_path: Path) -> None:
    lay(tmp_path, "cam1/1.png", "named/0002_c1s1_000451_03.jpg")
    with pytest.raises(DataError, match=r"--camera cam1 .* or the folder above"):
        find_crops([tmp_path / "cam1"], None, None)
    assert seen(tmp_path / "named") == [("0002_c1s1_000451_03.jpg", "c1")]
