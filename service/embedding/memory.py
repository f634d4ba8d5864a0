"""Memory that was freed, and that the C library keeps."""

from __future__ import annotations

import ctypes


def return_freed_memory() -> None:
    """Give it back to the system, where the C library can (glibc). Takes some milliseconds.

    Freed weights of a model lie between blocks that are in use; without this they stay with the
    process.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
