"""One process at a time writes into a run folder."""

from __future__ import annotations

from pathlib import Path

from adapt.errors import RunError, WriteError
from models.files import FileLock


def locked(path: Path) -> FileLock:
    """Lock a run folder.

    Raises RunError when it cannot be opened, WriteError when another process writes there.
    """
    try:
        return FileLock(path)
    except BlockingIOError:
        why = "a run is still writing there"
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise RunError(f"cannot open {path}: {error.strerror}; choose another --out") from None
    except OSError as error:
        why = str(error)
    raise WriteError(f"cannot lock {path}: {why}; choose another --out")
