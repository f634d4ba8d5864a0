"""Arrays in files without a name."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from adapt.errors import RunError
from adapt.runtime.disk_arrays import Scratch


def test_a_table_is_an_array_of_zeros_that_leaves_nothing_behind(tmp_path: Path) -> None:
    table = Scratch(tmp_path / "not" / "there").table((3, 4))
    assert type(table) is np.ndarray
    assert (table.dtype, table.shape) == (np.float32, (3, 4))
    assert not table.any()
    table[1] = 7
    assert table.sum() == 28
    assert not list(tmp_path.iterdir())
    assert Scratch(tmp_path).table((0, 4)).shape == (0, 4)


def test_a_full_disk_is_said_at_once(tmp_path: Path) -> None:
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, unlimited[1]))
    try:
        with pytest.raises(RunError, match=r"has no room for 0\.0 GB .*: make room there"):
            Scratch(tmp_path).table((100, 100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
