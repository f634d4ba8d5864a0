"""The server's data folder, which one server at a time may use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from models.files import FileLock
from service.errors import DataDirError


@dataclass(frozen=True)
class DataDir:
    """An open data folder; `close` and the end of the process release the lock."""

    path: Path
    lock: FileLock

    @classmethod
    def open(cls, path: Path) -> DataDir:
        """Make the folder if absent (readable by its owner only: it holds crops), and lock it.

        Raises:
            DataDirError: it cannot be made or written, or another server uses it.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            (path / "lock").touch()
            lock = FileLock(path / "lock")
            (path / "lock").write_text(f"{os.getpid()}\n")
        except BlockingIOError as error:
            holder = (path / "lock").read_text(errors="replace").strip() or "unknown"
            raise DataDirError(
                f"another server (process {holder}) uses the data folder {path}; stop it first, or "
                "choose another --data-dir"
            ) from error
        except OSError as error:
            raise DataDirError(
                f"data folder {path} cannot be used ({error.strerror}); choose another --data-dir, "
                "or give this user the right to write there"
            ) from error
        return cls(path, lock)

    @property
    def database(self) -> Path:
        """The store's file."""
        return self.path / "resight.db"

    def close(self) -> None:
        """Release the folder."""
        self.lock.release()
