from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from adapt.errors import RunError, WriteError
from adapt.runs import lock
from adapt.runs.lock import locked


def test_a_folder_is_locked_once_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(WriteError, match="a run is still writing there"):
        locked(tmp_path)
    with locked(tmp_path):
        pass


def test_a_folder_that_is_not_there_cannot_be_opened(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for path, why in ((tmp_path / "no", "No such file"), (file / "run", "Not a directory")):
        with pytest.raises(RunError, match=rf"cannot open {path}: {why}.*; choose another --out"):
            locked(path)


@pytest.mark.parametrize(
    ("number", "error", "why"),
    [
        (errno.EACCES, RunError, "cannot open .*: Permission denied; choose another --out"),
        (errno.ENOLCK, WriteError, "cannot lock .*No locks available.*; choose another --out"),
    ],
)
def test_what_the_system_refuses_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    error: type[RunError],
    why: str,
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(lock, "FileLock", refuse)
    with pytest.raises(error, match=why):
        locked(tmp_path)
