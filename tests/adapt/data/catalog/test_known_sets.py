"""Where the published sets are looked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapt.data.catalog.known_sets import SetName, find_set
from adapt.errors import DataError, NoImagesError
from tests.support.tiny_sets import write_duke, write_market, write_msmt17


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("market", "Market-1501-v15.09.15"),
        ("market", "market1501"),
        ("market", "market1501/Market-1501-v15.09.15"),
        ("market", "MARKET1501"),
        ("duke", "DukeMTMC-reID"),
        ("duke", "dukemtmc"),
        ("duke", "dukemtmc/DukeMTMC-reID"),
        ("msmt17", "MSMT17_V1"),
        ("msmt17", "MSMT17"),
        ("msmt17", "msmt17/MSMT17_V1"),
    ],
)
def test_usual_names(tmp_path: Path, name: SetName, folder: str) -> None:
    write = {"market": write_market, "duke": write_duke, "msmt17": write_msmt17}[name]
    root = write(tmp_path / folder)
    (tmp_path / "something else").mkdir()
    assert find_set(tmp_path, name) == root


def test_the_first_name_wins(tmp_path: Path) -> None:
    write_msmt17(tmp_path / "MSMT17_V2", version=2)
    first = write_msmt17(tmp_path / "MSMT17_V1")
    assert find_set(tmp_path, "msmt17") == first


def test_what_was_looked_for_where_is_listed(tmp_path: Path) -> None:
    with pytest.raises(
        NoImagesError,
        match=rf"no market in {tmp_path}: looked for .*Market-1501-v15\.09\.15, market1501",
    ):
        find_set(tmp_path, "market")
    with pytest.raises(NoImagesError, match="is not a folder"):
        find_set(tmp_path / "absent", "market")


@pytest.mark.parametrize("unreadable", ["", "market1501"])
def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unreadable: str
) -> None:
    (tmp_path / "market1501").mkdir()
    listed = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path == tmp_path / unreadable:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(
        DataError, match=f"{tmp_path / unreadable} cannot be read: Permission denied; allow this"
    ):
        find_set(tmp_path, "market")


def test_a_folder_that_lacks_parts_is_named(tmp_path: Path) -> None:
    root = write_market(tmp_path / "market1501")
    (root / "query").rename(root / "queries")
    with pytest.raises(NoImagesError, match=f"{root} has no query"):
        find_set(tmp_path, "market")
