"""Files on a local disk: written whole or not at all, locked, and read line by line. No torch.

POSIX only: rename(2) replaces a file in one step, and flock(2) locks belong to the process.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

from models.errors import DamagedFileError

ALL_LINES = slice(None)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Fill a hidden folder beside `target`, then rename it to `target` in one step.

    An empty folder at `target` is replaced.

    Raises:
        FileExistsError: `target` was made by another process meanwhile.
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


def draft_path(path: Path) -> Path:
    """The path of a temporary file beside `path`, hidden and used by nobody else."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write a file at, then rename it to `path` in one step.

    The content reaches the disk before the name does. An error, or a process that is killed, leaves
    what was at `path` before. Raises OSError.
    """
    draft = draft_path(path)
    try:
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_directory(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step; see `atomic_file`. Raises OSError."""
    with atomic_file(path) as draft:
        draft.write_bytes(content)


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and wait until the disk has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def append_synced(path: Path, data: bytes) -> None:
    """Append to a file, which need not exist, and wait until the disk has it. Raises OSError."""
    with path.open("ab") as file:
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


class FileLock:
    """An exclusive lock on a file or folder that exists; the system releases it with the process.

    What is locked stays as it is: no lock file is left beside a run folder or a job. That is why
    the library `filelock` is not used: it opens a file of its own for writing. Serving would need
    it as a further dependency, too.
    """

    def __init__(self, path: Path, *, wait: bool = False) -> None:
        """Open `path` and lock it.

        wait: until another holder releases it.

        Raises:
            BlockingIOError: another holder has it, and `wait` is false.
            OSError: it cannot be opened, or its file system has no locks.
        """
        # NFS locks only what is open for writing; a folder cannot be.
        self._descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BaseException:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Release it; further calls do nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def refuse_broken_link(path: Path) -> None:
    """Raise `DamagedFileError` if `path`, which cannot be opened, is a link: it is not absent."""
    if path.is_symlink():
        raise DamagedFileError(
            f"{path} is a link to a file that does not exist; mount or restore what it leads to, "
            "or remove the link"
        )


def read_json_lines(path: Path, which: slice = ALL_LINES) -> list[dict[str, Any]]:
    """Read a file of one JSON object per line.

    which: of the lines, counted from 0; the others are not looked at. A last line without a line
    break was cut short by a crash of its writer: it is left out.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: any other of the lines is not a JSON object, or the file cannot be read,
            or it is a link to nothing.
    """
    try:
        *lines, _cut_short = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        refuse_broken_link(path)
        raise
    except OSError as error:
        raise DamagedFileError(f"{path} cannot be read: {error.strerror}") from None
    numbered = list(enumerate(lines, start=1))[which]
    return [_json_object(path, number, line) for number, line in numbered]


def read_json_page(
    path: Path, *, after: int, page_bytes: int, line_bytes: int, min_lines: int = 0
) -> tuple[list[dict[str, Any]], bool]:
    """Read some lines of such a file, however long it is.

    Args:
        path: the file.
        after: how many lines come before.
        page_bytes: how many bytes are read; one line at least.
        line_bytes: the most bytes of a line, without its line break.
        min_lines: how many lines the file has at least, with its line break each.

    Returns:
        The objects, and whether there are further ones.

    Raises:
        FileNotFoundError, DamagedFileError: as `read_json_lines`, also for a longer line, and where
            the file ends after fewer lines.
    """
    rows: list[dict[str, Any]] = []
    number = size = 0
    try:
        with path.open("rb") as file:
            while (line := file.readline(line_bytes + 1)).endswith(b"\n"):
                number += 1
                if number <= after:
                    continue
                size += len(line)
                if rows and size > page_bytes:
                    return rows, True
                rows.append(_json_object(path, number, line))
    except FileNotFoundError:
        refuse_broken_link(path)
        raise
    except OSError as error:
        raise DamagedFileError(f"{path} cannot be read: {error.strerror}") from None
    if len(line) > line_bytes:
        raise DamagedFileError(
            f"{path} is damaged in line {number + 1} (more than {line_bytes} bytes); restore it "
            "from a copy"
        )
    if number < min_lines:
        raise DamagedFileError(
            f"{path} is damaged: it has {number} of {min_lines} lines; restore it from a copy"
        )
    return rows, False


def _json_object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(
            f"{path} is damaged in line {number} ({error}); restore it from a copy"
        ) from None
    if not isinstance(found, dict):
        raise DamagedFileError(
            f"{path} is damaged in line {number} (not a JSON object); restore it from a copy"
        )
    return found


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
