"""Memory that is freed goes back to the system, where the C library can (glibc)."""

from __future__ import annotations

import ctypes

_LARGE = 1024 * 1024
"""Bytes from which a block is large: weights are, decoded crops are not."""

_M_MMAP_THRESHOLD = -3  # of malloc.h


def keep_large_blocks_apart() -> None:
    """From now on large blocks of this process go back to the system as soon as they are freed.

    Otherwise they lie between small blocks that are in use, and what a model leaves behind differs
    from one release to the next.
    """
    choose = getattr(ctypes.CDLL(None), "mallopt", None)
    if choose is not None:
        choose(_M_MMAP_THRESHOLD, _LARGE)


def return_freed_memory() -> None:
    """Give back what is freed between blocks that are in use. Takes some milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
