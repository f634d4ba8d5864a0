"""Writing files so that a reader sees all or nothing, also after a crash."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Fill a hidden folder beside `target`, then rename it to `target` in one step.

    Raises:
        FileExistsError: `target` was made by somebody else meanwhile.
    """
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=target.parent))
    try:
        yield folder
        folder.chmod(0o755)
        for directory in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
            sync_directory(directory)
        try:
            folder.rename(target)
        except OSError as error:
            if target.exists():
                raise FileExistsError(f"{target} exists already") from error
            raise
        sync_directory(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and wait until the disk has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Wait until the disk has the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_plain_file(root: Path, name: str) -> bool:
    """Whether `root/name` is a file that no symbolic link below `root` leads elsewhere."""
    path = root
    for part in PurePosixPath(name).parts:
        path = path / part
        if path.is_symlink():
            return False
    return path.is_file()
