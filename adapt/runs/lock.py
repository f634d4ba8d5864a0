"""One process at a time writes into a run folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from adapt.errors import RunError, WriteError


def locked(path: Path) -> int:
    """Open a folder and hold its lock, which the system lets go when the process ends.

    Returns its descriptor, to be closed. Raises RunError when it is held elsewhere.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise RunError(f"cannot open {path}: {error.strerror}; choose another --out") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        why = "a run is still writing there" if isinstance(error, BlockingIOError) else error
        raise WriteError(f"cannot lock {path}: {why}; choose another --out") from None
    return descriptor
