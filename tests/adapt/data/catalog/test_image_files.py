"""Nothing below a folder is missing without a word."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from adapt.data.catalog.folders import read_site
from adapt.data.catalog.image_files import image_files, left_out_lines, unlisted_images
from adapt.errors import DataError


def lay(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def keys(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in image_files(folder).images]


def told(folder: Path) -> dict[str, tuple[str, bool]]:
    """What is left out, by key: why, and whether crops may be missing."""
    return {
        each.path.relative_to(folder).as_posix(): (each.reason, each.image)
        for each in image_files(folder).left_out
    }


def test_images_and_others_in_sorted_order(tmp_path: Path) -> None:
    lay(tmp_path, "b/2.JPG", "b/1.png", "a.webp", "b/notes.txt", "Makefile", "c/d/e.tiff")
    assert keys(tmp_path) == ["a.webp", "b/1.png", "b/2.JPG", "c/d/e.tiff"]
    assert told(tmp_path) == {
        "Makefile": ("file type none is not an image type; add .jpg if it is an image", False),
        "b/notes.txt": ("file type .txt is not an image type", False),
    }


def test_jpeg_files_of_other_names_are_images_and_types_that_are_not_decoded_are_told(
    tmp_path: Path,
) -> None:
    lay(tmp_path, "a.jfif", "b.JPE", "c.heic", "d.gif")
    assert [path.name for path in image_files(tmp_path).images] == ["a.jfif", "b.JPE"]
    assert told(tmp_path) == {
        "c.heic": ("file type .heic is not read; convert it to JPEG or PNG", True),
        "d.gif": ("file type .gif is not read; convert it to JPEG or PNG", True),
    }


def test_what_is_hidden_is_not_read_but_told(tmp_path: Path) -> None:
    lay(tmp_path, ".a.png", ".git/b.png", "c/.thumbs/d.png", "c/e.png")
    assert [path.name for path in image_files(tmp_path).images] == ["e.png"]
    assert told(tmp_path) == {
        ".a.png": ("a hidden file", False),
        ".git": ("a hidden folder, which is not searched", False),
        "c/.thumbs": ("a hidden folder, which is not searched", False),
    }


def test_lines_on_what_is_left_out_name_ten_of_a_reason_and_count_all() -> None:
    assert left_out_lines([]) == []
    assert left_out_lines([("a", "x"), ("b", "y"), ("c", "x")]) == [
        "left out a, c: x",
        "left out b: y",
    ]
    (line,) = left_out_lines((str(n), "x") for n in range(12))
    assert line == "left out 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more: x"
    lines = left_out_lines((str(n), f"reason {n % 23}") for n in range(46))
    assert len(lines) == 21
    assert lines[-1] == "left out 6 more, for other reasons"


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    lay(tmp_path, "elsewhere/1.png", "elsewhere/deep/2.png", "far/3.png", "site/cam2/4.png")
    (tmp_path / "site" / "cam1").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "on").symlink_to(tmp_path / "far")
    assert keys(tmp_path / "site") == [
        "cam1/1.png",
        "cam1/deep/2.png",
        "cam1/on/3.png",
        "cam2/4.png",
    ]
    assert told(tmp_path / "site") == {}


def test_a_folder_is_read_once_where_it_is_not_a_link(tmp_path: Path) -> None:
    lay(tmp_path, "c/d/e.png")
    (tmp_path / "again").symlink_to(tmp_path / "c")
    (tmp_path / "deep").symlink_to(tmp_path / "c" / "d")
    assert keys(tmp_path) == ["c/d/e.png"]
    assert told(tmp_path) == {
        "again": ("the same folder as c, which is read", False),
        "deep": ("the same folder as c/d, which is read", False),
    }


def test_a_folder_in_a_linked_folder_is_read_once(tmp_path: Path) -> None:
    lay(tmp_path, "nas/cam1/1.png", "nas/2.png")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "a").symlink_to(tmp_path / "nas" / "cam1")
    (tmp_path / "site" / "b").symlink_to(tmp_path / "nas")
    assert keys(tmp_path / "site") == ["a/1.png", "b/2.png"]
    assert told(tmp_path / "site") == {"b/cam1": ("the same folder as a, which is read", False)}


def test_loops_end(tmp_path: Path) -> None:
    lay(tmp_path, "site/c/1.png", "other/2.png")
    site = tmp_path / "site"
    (site / "c" / "itself").symlink_to(site / "c")
    (site / "c" / "root").symlink_to(site)
    (site / "up").symlink_to(tmp_path)
    (site / "out").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(site)
    (site / "round").symlink_to("round")
    assert keys(site) == ["c/1.png", "out/2.png"]
    assert told(site) == {
        "c/itself": ("the same folder as c, which is read", False),
        "c/root": ("the same folder as the whole, which is read", False),
        "out/back": ("the same folder as the whole, which is read", False),
        "round": ("a broken link: round is not there", True),
        "up": (f"a link to {tmp_path}, which holds {site}", False),
    }


def test_broken_links_and_what_is_no_file_are_left_out_by_name(tmp_path: Path) -> None:
    lay(tmp_path, "cam2/1.png")
    (tmp_path / "cam1").symlink_to("gone")
    os.mkfifo(tmp_path / "cam2" / "pipe.png")
    assert told(tmp_path) == {
        "cam1": ("a broken link: gone is not there", True),
        "cam2/pipe.png": ("neither a file nor a folder", False),
    }
    crops = read_site(tmp_path)
    assert {drop.key: drop.image for drop in crops.dropped} == {
        "cam1": True,
        "cam2/pipe.png": False,
    }


def test_links_to_files_count_and_so_do_broken_ones(tmp_path: Path) -> None:
    lay(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to("a.png")
    (tmp_path / "c.png").symlink_to("gone.png")
    assert [path.name for path in image_files(tmp_path).images] == ["a.png", "b.png", "c.png"]


def test_a_folder_that_cannot_be_listed_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, "door/1.png", "lift/1.png")
    listed = os.scandir

    def scandir(path: str) -> Any:
        if Path(path).name == "lift":
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"lift cannot be read \(Permission denied\)"):
        read_site(tmp_path)


def test_a_folder_that_cannot_be_entered_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, "door/1.png", "lift/1.png")
    looked_at = Path.is_file

    def is_file(path: Path) -> bool:
        if path.parent.name == "lift":
            raise PermissionError(13, "Permission denied", str(path))
        return looked_at(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    with pytest.raises(DataError, match=r"lift/1.png cannot be read \(Permission denied\)"):
        read_site(tmp_path)


def test_images_that_a_list_does_not_name_are_told_and_nothing_else(tmp_path: Path) -> None:
    names = ("a/1.jpg", "a/2.JPG", "b/c/3.heic", "notes.txt", ".x.jpg", ".cache/4.jpg", "0.png")
    lay(tmp_path / "site", *names)
    lay(tmp_path / "elsewhere", "1.jpg", "2.jpg")
    for link in ("listed", "other"):
        (tmp_path / "site" / link).symlink_to(tmp_path / "elsewhere")
    found = unlisted_images(tmp_path / "site", ["a/1.jpg", "listed/1.jpg"], "list.csv")
    told = {each.path.relative_to(tmp_path / "site").as_posix(): each.reason for each in found}
    unlisted = dict.fromkeys(("0.png", "a/2.JPG", "b/c/3.heic", "listed/2.jpg"))
    assert told == {
        **dict.fromkeys(unlisted, "not listed in list.csv"),
        "other": "a link to a folder of which list.csv lists nothing",
    }


def test_a_link_around_a_list_ends(tmp_path: Path) -> None:
    lay(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "again").symlink_to(tmp_path)
    found = unlisted_images(tmp_path, ["1.jpg", "again/1.jpg"], "list.csv")
    names = {each.path.relative_to(tmp_path).as_posix() for each in found}
    assert names == {"2.jpg", "again/2.jpg", "again/again"}


def test_a_folder_beside_the_listed_ones_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, "a/1.jpg", "lost+found/2.jpg")
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if os.fspath(path).endswith("lost+found"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    (told,) = unlisted_images(tmp_path, ["a/1.jpg"], "list.csv")
    assert told.path == tmp_path / "lost+found"
    assert told.reason.startswith("cannot be read (Permission denied)")
