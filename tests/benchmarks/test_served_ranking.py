"""Figures of searches over the wire: what is not answered counts, and is counted."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="benchmarks import adapt")

from benchmarks.served_ranking import average_precision


def test_a_match_that_is_not_answered_counts_as_0() -> None:
    right = np.array([False, True, False, True])
    assert average_precision(right, 2) == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert average_precision(right, 5) == pytest.approx((1 / 2 + 2 / 4) / 5)
    assert average_precision(right[:1], 5) == 0.0


def test_without_a_match_there_is_no_figure() -> None:
    assert average_precision(np.zeros(3, bool), 0) is None
