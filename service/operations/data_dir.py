"""The server's data folder, which one server at a time may use."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from service.errors import DataDirError


@dataclass(frozen=True)
class DataDir:
    """An open data folder; the lock is released by `close`, and by the end of the process."""

    path: Path
    lock: IO[str]

    @classmethod
    def open(cls, path: Path) -> DataDir:
        """Make the folder if absent (readable by its owner only: it holds crops), and lock it.

        Raises:
            DataDirError: it cannot be made or written, or another server uses it.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (path / "lock").open("a+")
        except OSError as error:
            raise DataDirError(
                f"data folder {path} cannot be used ({error.strerror}); choose another --data-dir, "
                "or give this user the right to write there"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            lock.close()
            raise DataDirError(
                f"another server (process {holder}) uses the data folder {path}; stop it first, or "
                "choose another --data-dir"
            ) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        return cls(path, lock)

    @property
    def database(self) -> Path:
        """The store's file."""
        return self.path / "resight.db"

    def close(self) -> None:
        """Release the folder."""
        self.lock.close()
