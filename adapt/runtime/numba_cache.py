"""Compile by numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call, and keep the result on disk for the next process.

    Where neither the package's folder nor the user's cache can be written (a read-only container),
    each process compiles anew, which takes seconds; NUMBA_CACHE_DIR names another place.
    """
    try:
        kept: Callable[..., Any] = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no place for its cache
        kept = numba.njit(nogil=True)(function)
    return kept
