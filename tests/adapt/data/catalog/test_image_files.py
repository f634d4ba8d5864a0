"""Nothing below a folder is missing without a word."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from adapt.data.catalog.folders import read_site
from adapt.data.catalog.image_files import image_files
from adapt.errors import DataError


def lay(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_images_and_others_in_sorted_order(tmp_path: Path) -> None:
    lay(tmp_path, "b/2.JPG", "b/1.png", "a.webp", "b/notes.txt", "Makefile", "c/d/e.tiff")
    found = image_files(tmp_path)
    keys = [path.relative_to(tmp_path).as_posix() for path in found.images]
    assert keys == ["a.webp", "b/1.png", "b/2.JPG", "c/d/e.tiff"]
    assert [path.name for path in found.others] == ["Makefile", "notes.txt"]


def test_what_is_hidden_does_not_count_and_links_to_folders_are_not_entered(tmp_path: Path) -> None:
    lay(tmp_path, ".a.png", ".git/b.png", "c/.thumbs/d.png", "c/e.png")
    (tmp_path / "again").symlink_to(tmp_path / "c")
    assert [path.name for path in image_files(tmp_path).images] == ["e.png"]


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
