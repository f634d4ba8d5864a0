"""Which rows of a manifest become crops, and what is said of a bad one."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Literal
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt.data.catalog.cameras import ONE_CAMERA
from adapt.data.catalog.folders import read_site
from adapt.data.catalog.manifest import LATEST, parse_time, read_manifest
from adapt.errors import DataError, NoImagesError
from adapt.types import UNTRACKED

HEADER = ("path", "camera", "track", "time")


def site(
    root: Path, rows: Sequence[Sequence[object]], header: Sequence[str] = HEADER, name: str = ""
) -> Path:
    """A manifest of these rows, with the files they name that lie in the folder."""
    root.mkdir(parents=True, exist_ok=True)
    file = root / (name or "manifest.csv")
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return file


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"never opened here")


GOOD = (
    ("door/1.jpg", "door", "d4", "2026-03-01T08:15:02.5Z"),
    ("door/2.jpg", "door", "d4", "1772352903"),
    ("lift/1.jpg", "lift", "", ""),
)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    touch(tmp_path, *(row[0] for row in GOOD), "door/not-listed.jpg")
    return site(tmp_path, GOOD)


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_table", ["NFC", "NFD"])
def test_names_and_paths_of_another_unicode_form(
    tmp_path: Path, on_disk: Literal["NFC", "NFD"], in_table: Literal["NFC", "NFD"]
) -> None:
    path, camera = normalize(on_disk, "Café/a.jpg"), normalize(in_table, "Café")
    touch(tmp_path, path, "Café/b.jpg")
    rows = [
        (normalize(in_table, "Café/a.jpg"), camera, normalize(in_table, "é4"), ""),
        ("Café/b.jpg", "Café", "é4", ""),
    ]
    found = read_manifest(site(tmp_path, rows))
    assert [row.path for row in found.rows] == [path, "Café/b.jpg"]
    assert {(row.camera, row.track) for row in found.rows} == {("Café", "é4")}
    twice = site(tmp_path, [*rows, (path, "Café", "é4", "")])
    with pytest.raises(DataError, match="given twice"):
        read_manifest(twice)


@pytest.mark.parametrize("target", ["gone.csv", "folder"])
def test_a_folder_whose_manifest_cannot_be_read_is_not_read_without_it(
    tmp_path: Path, target: str
) -> None:
    touch(tmp_path, "door/1.jpg")
    (tmp_path / "folder").mkdir()
    (tmp_path / "manifest.csv").symlink_to(target)
    with pytest.raises(DataError, match=r"manifest\.csv is a broken link or not a file"):
        read_site(tmp_path)


def test_a_file_that_may_not_be_looked_at_is_named_with_the_reason(
    good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = Path.is_file

    def is_file(path: Path) -> bool:
        if path.parent.name == "lift":
            raise PermissionError(13, "Permission denied", str(path))
        return looked_at(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    wanted = r"files that cannot be read: 1 \(row 4: lift/1\.jpg \(Permission denied\)\)"
    with pytest.raises(DataError, match=wanted):
        read_site(good)


@pytest.mark.parametrize("folder", [True, False])
def test_a_manifest_is_read_by_its_name_or_in_its_folder(good: Path, folder: bool) -> None:
    crops = read_site(good.parent if folder else good)
    assert [s.key for s in crops.samples] == ["door/1.jpg", "door/2.jpg", "lift/1.jpg"]
    assert crops.cameras == ("door", "lift")
    assert crops.camera_codes.tolist() == [0, 0, 1]
    assert crops.tracks.tolist() == [0, 0, UNTRACKED]
    moment = datetime(2026, 3, 1, 8, 15, 2, 500_000, UTC).timestamp()
    assert crops.times[:2].tolist() == [moment, 1772352903.0]
    assert crops.samples[2].time is None
    assert (crops.root, crops.manifest) == (good.parent, "manifest.csv")
    assert {s.person for s in crops.samples} == {-1}


def test_images_that_the_manifest_does_not_list_are_told(good: Path) -> None:
    (told,) = read_site(good.parent).unlisted
    assert (told.key, told.reason) == ("door/not-listed.jpg", "not listed in manifest.csv")


def test_other_columns_may_be_missing_and_stand_in_any_order(tmp_path: Path) -> None:
    touch(tmp_path, "door/1.jpg", "lift/1.jpg", "2.jpg")
    crops = read_site(site(tmp_path, [("a", "door/1.jpg"), ("b", "lift/1.jpg")], ("track", "path")))
    assert crops.cameras == ("door", "lift"), "as in a plain folder"
    crops = read_site(site(tmp_path, [("2.jpg",)], ("path",)))
    assert crops.cameras == (ONE_CAMERA,)
    assert crops.tracks.tolist() == [UNTRACKED]
    crops = read_site(site(tmp_path, [("door/1.jpg",), ("lift/1.jpg",)], ("path",)), r"(oo|if)")
    assert crops.cameras == ("if", "oo")


def test_spelling(tmp_path: Path) -> None:
    """A byte order mark, spaces, blank lines and quoted commas are as spreadsheets leave them."""
    touch(tmp_path, "a,b.jpg", "c.jpg")
    (tmp_path / "m.csv").write_text(
        '\ufeffpath, camera\n"a,b.jpg", door \n\n./c.jpg,door\n', encoding="utf-8"
    )
    crops = read_site(tmp_path / "m.csv")
    assert [s.key for s in crops.samples] == ["a,b.jpg", "c.jpg"]
    assert crops.cameras == ("door",)


BAD_ROWS = {
    "absent": (("gone.jpg", "a", "", ""), r"files that are not there: 1 \(row 5: gone\.jpg\)"),
    "folder": (("door", "a", "", ""), r"files that are not there: 1 \(row 5: door\)"),
    "too long": (("x" * 300, "a", "", ""), r"files that cannot be read: 1 .*File name too long"),
    "no path": (("", "a", "", ""), r"empty paths: 1 \(row 5\)"),
    "absolute": (("/etc/passwd", "a", "", ""), r"out of the manifest's folder .*/etc/passwd"),
    "dots": (("door/../../x.jpg", "a", "", ""), r"out of the manifest's folder"),
    "row twice": (GOOD[1], r"rows given twice .*: 1 \(row 5: is row 3\)"),
    "file twice": (("door/./2.jpg", "door", "", ""), r"files given twice .* in row 3 with other"),
    "no camera": (("free.jpg", " ", "", ""), r"empty cameras .*: 1 \(row 5\)"),
    "before 1970": (("free.jpg", "a", "", "-1"), "-1 is before 1970"),
    "milliseconds": (("free.jpg", "a", "", "1772352903000"), "is after 2100; .* not milliseconds"),
    "nan": (("free.jpg", "a", "", "nan"), "nan is not finite"),
    "no zone": (("free.jpg", "a", "", "2026-03-01T08:15:02"), "without a time zone"),
    "no time": (("free.jpg", "a", "", "noon"), "noon is neither ISO 8601 nor Unix seconds"),
    "two cameras": (("free.jpg", "lift", "d4", ""), r"two cameras .*'d4' in 'lift' and 'door'"),
    "short": (("free.jpg", "a"), r"rows without 4 cells: 1 \(row 5: 2 cells\)"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows_are_named(good: Path, case: str) -> None:
    row, message = BAD_ROWS[case]
    touch(good.parent, "free.jpg")
    with pytest.raises(DataError, match=message):
        read_site(site(good.parent, [*GOOD, row]))


def test_all_problems_are_summed_up(good: Path) -> None:
    bad = [(f"gone{n}.jpg", "a", "", "") for n in range(5)] + [("door/1.jpg", "", "", "x")]
    with pytest.raises(DataError) as error:
        read_site(site(good.parent, [*GOOD, *bad]))
    for part in (
        "not there: 5 (row 5: gone0.jpg, row 6: gone1.jpg, row 7: gone2.jpg, ...)",
        "empty cameras (fill them in, or remove the column): 1 (row 10)",
        "impossible times: 1 (row 10: x is neither",
        "files given twice (keep the right row): 1 (row 10: door/1.jpg is in row 2",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (("path", "camera", "person"), "'person': adaptation must not see who a person is"),
        (("path", "ID"), "'ID': adaptation must not see"),
        (("path", "color", "size"), "nothing reads: 'color', 'size'; remove them .*path, camera"),
        (("path", "time", "time"), "the column 'time' twice"),
        (("camera", "time"), "no column 'path'"),
        (("path;camera",), "one column 'path;camera': columns are separated by commas; export it"),
        (("path\tcamera",), "columns are separated by commas"),
        (("path|person",), "columns are separated by commas"),
    ],
)
def test_bad_columns(tmp_path: Path, header: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_manifest(site(tmp_path, [], header))


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no table")
    with pytest.raises(DataError, match=r"neither a folder nor a manifest"):
        read_site(tmp_path / "notes.txt")
    with pytest.raises(NoImagesError, match="not a folder"):
        read_site(tmp_path / "gone.csv")
    with pytest.raises(NoImagesError, match="lists no crops"):
        read_site(site(tmp_path, []))
    (tmp_path / "manifest.csv").write_bytes(b"")
    with pytest.raises(NoImagesError, match="is empty"):
        read_site(tmp_path)
    (tmp_path / "manifest.csv").write_bytes(b"path\n\xff\xfe\n")
    with pytest.raises(DataError, match="not CSV in UTF-8"):
        read_site(tmp_path)
    (tmp_path / "manifest.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds manifest\.csv and manifest\.parquet"):
        read_site(tmp_path)


def test_cameras_come_from_one_place(good: Path) -> None:
    with pytest.raises(DataError, match="--camera-pattern is given, too"):
        read_site(good, "(door)")


def test_tracks_are_of_one_camera_where_folders_name_them(tmp_path: Path) -> None:
    touch(tmp_path, "door/1.jpg", "lift/1.jpg")
    file = site(tmp_path, [("door/1.jpg", "7"), ("lift/1.jpg", "7")], ("path", "track"))
    with pytest.raises(DataError, match=r"row 3: '7' in 'lift' and 'door'"):
        read_site(file)


@given(
    seconds=st.integers(0, int(LATEST)),
    micro=st.integers(0, 999_999),
    zone=st.integers(-14 * 60, 14 * 60),
)
def test_every_spelling_of_a_moment_is_one_time(seconds: int, micro: int, zone: int) -> None:
    utc = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds, microseconds=micro)
    expected = seconds + micro / 1e6
    if expected > LATEST:
        return
    local = utc.astimezone(timezone(timedelta(minutes=zone)))
    for spelling in (local, local.isoformat(), repr(expected), expected):
        assert parse_time(spelling) == pytest.approx(expected, abs=1e-6)


def test_times_of_typed_cells() -> None:
    """What Parquet gives."""
    assert parse_time(None) is None
    assert parse_time("") is None
    assert parse_time(5) == 5.0
    for bad in (True, b"5", datetime(2026, 3, 1), float("inf")):
        with pytest.raises(ValueError, match=r"time|finite"):
            parse_time(bad)


def test_parquet_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # importing it then fails
    (tmp_path / "manifest.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"needs pyarrow: pip install 'resight\[parquet\]'"):
        read_site(tmp_path)


def test_parquet_says_what_csv_says(good: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    moment = datetime(2026, 3, 1, 8, 15, 2, 500_000, UTC)
    table = pa.table(
        {
            "path": [row[0] for row in GOOD],
            "camera": [row[1] for row in GOOD],
            "track": ["d4", "d4", None],
            "time": pa.array(
                [moment, datetime.fromtimestamp(1772352903, UTC), None], pa.timestamp("ns", "UTC")
            ),
        }
    )
    pq.write_table(table, good.with_name("site.parquet"))
    by_csv, by_parquet = read_site(good), read_site(good.with_name("site.parquet"))
    assert by_parquet.samples == by_csv.samples
    good.with_name("site.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match="not a valid Parquet file"):
        read_site(good.with_name("site.parquet"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Path,Camera\na.png,c1\n", "column 'Path': write it 'path'"),
        ("a.png,c1\nb.png,c1\n", "begins with a crop: write the columns into a first row"),
        ("path\nc1\\a.png\n", r"paths have / between folders, not \\\): 1"),
    ],
)
def test_manifests_of_other_hands_are_told_what_to_write(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_site(tmp_path)
