from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.errors import DataDirError
from service.operations.data_dir import DataDir


def test_is_made_for_its_owner_only(tmp_path: Path) -> None:
    opened = DataDir.open(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    assert opened.database.parent == tmp_path / "a" / "b"
    opened.close()


def test_only_one_server_at_a_time(tmp_path: Path) -> None:
    first = DataDir.open(tmp_path)
    with pytest.raises(DataDirError, match=f"process {os.getpid()}"):
        DataDir.open(tmp_path)
    first.close()
    DataDir.open(tmp_path).close()


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataDirError, match="choose another --data-dir"):
        DataDir.open(tmp_path / "file")
