"""Files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.runs.tensor_files import save_tensors, write_atomically  # noqa: E402

WRITERS = {
    "bytes": lambda path: write_atomically(path, b"content"),
    "tensors": lambda path: save_tensors(path, {"a": torch.zeros(3)}, {}),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_content_is_on_the_disk_before_its_name_and_then_the_name(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of the system's calls is all that can be seen of it without a power cut."""
    calls: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        calls.append(("fsync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def watched_replace(old: Path, new: Path) -> None:
        calls.append(("replace", old.stat().st_ino))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    file = tmp_path / "file"
    write(file)
    content, folder = file.stat().st_ino, tmp_path.stat().st_ino
    assert calls == [("fsync", content), ("replace", content), ("fsync", folder)]
