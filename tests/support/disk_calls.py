"""The order in which files reach the disk: all that can be seen of it without a power cut."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DiskCall = tuple[str, int]
"""`fsync` or `replace`, and the inode of the file."""


def recorded_disk_calls(monkeypatch: pytest.MonkeyPatch) -> list[DiskCall]:
    """A list that fsync and replace are appended to from now on."""
    calls: list[DiskCall] = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor: int) -> None:
        calls.append(("fsync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def recorded_replace(old: Path, new: Path) -> None:
        calls.append(("replace", old.stat().st_ino))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    return calls


def synced_then_renamed(file: Path) -> list[DiskCall]:
    """The calls that leave the old content or the new one at `file` after a power cut."""
    content, folder = file.stat().st_ino, file.parent.stat().st_ino
    return [("fsync", content), ("replace", content), ("fsync", folder)]
