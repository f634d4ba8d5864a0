"""Whether the open database is the one in the data folder: SQLite writes into a deleted file."""

from __future__ import annotations

from pathlib import Path

from service.errors import StoreError


class Place:
    """The files of a database as they were opened. SQLite, too, tells files by these numbers."""

    def __init__(self, database: Path) -> None:
        names = (database, database.with_name(f"{database.name}-wal"))
        self._files = {path: _number(path) for path in names if path.exists()}

    def check(self) -> None:
        """Raise `StoreError` where a file was removed, moved or replaced."""
        for path, number in self._files.items():
            if _number(path) != number:
                raise StoreError(
                    f"{path.name} was removed, moved or replaced while the server had it open, and "
                    "what is written now would be lost; put back the folder as it was, or stop the "
                    "server and restore the database from a backup"
                )


def _number(path: Path) -> tuple[int, int] | None:
    """Device and inode, None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
