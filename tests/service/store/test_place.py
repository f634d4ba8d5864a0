from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from service.errors import StoreError
from service.store.place import Place


@pytest.mark.parametrize("name", ["resight.db", "resight.db-wal"])
def test_a_file_that_is_not_the_opened_one_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    database = folder / "resight.db"
    for file in (database, folder / "resight.db-wal"):
        file.write_bytes(b"1")
    place = Place(database)
    place.check()
    shutil.copy(folder / name, folder / "copy")
    (folder / name).rename(folder / "kept")
    with pytest.raises(StoreError, match=rf"{name} was removed"):
        place.check()
    (folder / "copy").rename(folder / name)
    with pytest.raises(StoreError, match="replaced"):
        place.check()
    (folder / "kept").rename(folder / name)
    place.check()
    folder.rename(tmp_path / "moved")
    with pytest.raises(StoreError, match="put back the folder"):
        place.check()
