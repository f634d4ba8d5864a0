"""One process at a time writes into a run folder."""

from __future__ import annotations

from pathlib import Path

from adapt.errors import RunError, WriteError
from models.files import FileLock
from models.wording import reason_of


def locked(path: Path) -> FileLock:
    """Lock a run folder.

    Raises RunError when it cannot be opened, WriteError when another process writes there or its
    file system has no locks.
    """
    try:
        return FileLock(path)
    except BlockingIOError:
        raise WriteError(
            f"cannot lock {path}: a run is still writing there; choose another --out"
        ) from None
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise RunError(f"cannot open {path}: {error.strerror}; choose another --out") from None
    except OSError as error:
        raise WriteError(f"cannot lock {path}: {reason_of(error)}; choose another --out") from None
