"""Overlaps of sparse rows, compiled and on a device: against a dense double loop."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array

from adapt.clustering.graph.device import overlap_rows_on
from adapt.clustering.graph.overlap import Overlaps, overlap_rows

CPU = torch.device("cpu")


def random_rows(seed: int, images: int, hubs: int = 2) -> csr_array:
    """Rows of 1 to 12 entries that sum to 1; every second row has a column that many have."""
    rng = np.random.default_rng(seed)
    full = np.zeros((images, images))
    for i in range(images):
        near = (i + rng.integers(-4, 5, rng.integers(1, 12))) % images
        full[i, near] = rng.random(len(near)) + 0.01
        if hubs and i % 2:
            full[i, rng.integers(0, hubs)] += rng.random() * 2 + 0.01
    return csr_array((full / full.sum(axis=1, keepdims=True)).astype(np.float32))


def double_loop(rows: csr_array) -> NDArray[np.float64]:
    full = rows.toarray().astype(np.float64)
    return np.array([[np.minimum(a, b).sum() for b in full] for a in full])


def together(found: Iterable[Overlaps], images: int) -> NDArray[np.float64]:
    """(N, N) overlaps; each pair once, all rows in order."""
    full = np.full((images, images), np.nan)
    done = 0
    for part in found:
        assert part.first == done
        done += part.rows
        assert ((part.row >= 0) & (part.row < part.rows)).all()
        at = (part.first + part.row, part.column)
        assert np.isnan(full[at]).all()
        full[at] = part.shared
        assert len(np.unique(part.row * images + part.column)) == len(part.row)
    assert done == images
    return full


def all_forms(rows: csr_array, least: float) -> list[NDArray[np.float64]]:
    images = rows.shape[0]
    found = (
        overlap_rows(rows, least),
        overlap_rows_on(CPU, rows, least),
        overlap_rows_on(CPU, rows, least, dense_entries=7 * images, list_entries=20),
    )
    return [together(part, images) for part in found]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 60),
    hubs=st.integers(0, 3),
    least=st.sampled_from([0.0, 0.2, 0.4, 0.8]),
)
def test_equals_a_double_loop(seed: int, images: int, hubs: int, least: float) -> None:
    rows = random_rows(seed, images, hubs=min(hubs, images))
    wanted = double_loop(rows)
    for found in all_forms(rows, least):
        stored = ~np.isnan(found)
        np.testing.assert_allclose(found[stored], wanted[stored], atol=1e-12)
        assert stored[(wanted >= least) & (wanted > 0)].all()
        assert (found[stored] >= least - 1e-4).all(), "far pairs are left out"
        assert stored.diagonal().all()
        np.testing.assert_array_equal(found, found.T)


@pytest.mark.slow
@pytest.mark.parametrize("least", [0.0, 0.3])
def test_several_blocks(least: float) -> None:
    rows = random_rows(1, 1200)  # blocks of 512
    compiled, on_device, in_blocks = all_forms(rows, least)
    np.testing.assert_array_equal(compiled, compiled.T)
    np.testing.assert_array_equal(compiled, on_device)
    np.testing.assert_array_equal(compiled, in_blocks)
    full = rows.toarray().astype(np.float64)
    for i in (0, 511, 512, 1199):
        wanted = np.minimum(full[i], full).sum(axis=1)
        kept = ~np.isnan(compiled[i])
        np.testing.assert_allclose(compiled[i][kept], wanted[kept], atol=1e-12)
        np.testing.assert_array_equal(kept, wanted >= max(least, 1e-9))


def test_a_pair_exactly_at_the_limit_is_found() -> None:
    # 0.25 + 0.25 shared by the first two; the third shares 0.25 with each
    full = np.array([[0.5, 0.25, 0.25, 0], [0, 0.25, 0.25, 0.5], [0, 0, 0.25, 0], [0, 0, 0, 1]])
    full[2, 0] = 0.75
    for found in all_forms(csr_array(full.astype(np.float32)), 0.5):
        assert found[0, 1] == found[1, 0] == 0.5
        assert found[0, 2] == 0.75  # min(0.5, 0.75) + 0.25
        assert np.isnan(found[1, 2])
        assert found[1, 3] == 0.5


def test_entries_in_any_order_and_rows_left_alone() -> None:
    rows = random_rows(2, 40)
    shuffled = rows.copy()
    rng = np.random.default_rng(0)
    for i in range(40):
        own = slice(rows.indptr[i], rows.indptr[i + 1])
        order = rng.permutation(own.stop - own.start)
        shuffled.indices[own] = rows.indices[own][order]
        shuffled.data[own] = rows.data[own][order]
    before = shuffled.indices.tolist(), shuffled.data.tolist()
    for plain, mixed in zip(all_forms(rows, 0.3), all_forms(shuffled, 0.3), strict=True):
        np.testing.assert_array_equal(plain, mixed)
    assert (shuffled.indices.tolist(), shuffled.data.tolist()) == before
