"""Every batch is exactly P x S, whatever the clusters look like."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt.data.sampler import IdentitySampler
from adapt.errors import ClusteringError


def sampler(
    labels: list[int], cameras: list[int], p: int, s: int, seed: int = 0
) -> IdentitySampler:
    return IdentitySampler(
        np.array(labels, np.int64),
        np.array(cameras, np.int64),
        identities=p,
        instances=s,
        rng=np.random.default_rng(seed),
    )


@given(
    sizes=st.lists(st.integers(1, 7), min_size=2, max_size=9),
    outliers=st.integers(0, 5),
    instances=st.integers(2, 5),
    seed=st.integers(0, 99),
)
def test_batches_are_always_p_times_s(
    sizes: list[int], outliers: int, instances: int, seed: int
) -> None:
    labels = [-1] * outliers + [k for k, size in enumerate(sizes) for _ in range(size)]
    cameras = [i % 3 for i in range(len(labels))]
    p = max(2, len(sizes) // 2)
    for rows in islice(sampler(labels, cameras, p, instances, seed), 5):
        assert rows.shape == (p * instances,)
        drawn = np.array(labels)[rows].reshape(p, instances)
        assert (drawn == drawn[:, :1]).all(), "S images of one identity lie together"
        assert len(set(drawn[:, 0])) == p, "P different identities"
        assert (drawn >= 0).all(), "outliers are never drawn"


def test_one_pass_shows_every_identity_once() -> None:
    rows = list(islice(sampler([0, 0, 1, 1, 2, 2, 3, 3], [0] * 8, p=2, s=2), 2))
    assert sorted(np.concatenate(rows)) == list(range(8))


def test_other_cameras_come_first() -> None:
    labels, cameras = [0] * 6 + [1] * 2, [0, 0, 0, 1, 1, 1, 0, 0]
    for rows in islice(sampler(labels, cameras, p=2, s=4), 20):
        for group in rows.reshape(2, 4):
            if labels[group[0]] == 0:
                assert all(cameras[g] != cameras[group[0]] for g in group[1:])
                assert len(set(group)) == 4, "without replacement where there are enough"


def test_a_single_image_is_repeated() -> None:
    rows = next(iter(sampler([0, 1], [0, 0], p=2, s=4)))
    assert sorted(rows) == [0] * 4 + [1] * 4


def test_too_few_identities_is_an_error_not_a_hang() -> None:
    with pytest.raises(ClusteringError, match="3 identities cannot fill a batch of 4"):
        sampler([0, 1, 2, -1], [0] * 4, p=4, s=2)
    with pytest.raises(ClusteringError):
        sampler([-1, -1], [0, 0], p=2, s=2)


def test_same_seed_same_batches() -> None:
    labels, cameras = [i // 4 for i in range(40)], [i % 2 for i in range(40)]
    one, two, other = (list(islice(sampler(labels, cameras, 4, 3, s), 4)) for s in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
