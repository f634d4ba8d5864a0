"""Every batch is exactly P x S, whatever the clusters look like; or of any images."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt.data.batches.sampler import IdentitySampler, ImageSampler
from adapt.errors import ClusteringError


def sampler(
    labels: list[int], cameras: list[int], p: int, s: int, seed: int = 0, *, across: bool = True
) -> IdentitySampler:
    return IdentitySampler(
        np.array(labels, np.int64),
        np.array(cameras, np.int64),
        identities=p,
        instances=s,
        across_cameras=across,
        rng=np.random.default_rng(seed),
    )


@given(
    sizes=st.lists(st.integers(1, 7), min_size=2, max_size=9),
    outliers=st.integers(0, 5),
    instances=st.integers(2, 5),
    seed=st.integers(0, 99),
    across=st.booleans(),
)
def test_batches_are_always_p_times_s(
    sizes: list[int], outliers: int, instances: int, seed: int, across: bool
) -> None:
    labels = [-1] * outliers + [k for k, size in enumerate(sizes) for _ in range(size)]
    cameras = [i % 3 for i in range(len(labels))]
    p = max(2, len(sizes) // 2)
    for rows in islice(sampler(labels, cameras, p, instances, seed, across=across), 5):
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


def test_any_images_of_an_identity_without_regard_to_cameras() -> None:
    """Pairs of one camera come as often as chance has it; nothing twice where there is enough."""
    labels, cameras = [0] * 6 + [1] * 6, [0, 0, 0, 1, 1, 1] * 2
    pairs = []
    for rows in islice(sampler(labels, cameras, p=2, s=4, across=False), 300):
        for group in rows.reshape(2, 4):
            assert len(set(group)) == 4
            pairs += [cameras[g] == cameras[group[0]] for g in group[1:]]
    assert np.mean(pairs) == pytest.approx(2 / 5, abs=0.04)
    few = next(iter(sampler([0, 0, 1, 1], [0, 1, 0, 1], p=2, s=4, across=False)))
    assert all(len(set(group)) == 2 for group in few.reshape(2, 4)), "the other one, again"


def test_pinned_draws() -> None:
    """A run of the same seed draws the same batches as ever."""
    labels, cameras = [i // 4 for i in range(12)], [i % 2 for i in range(12)]
    drawn = {
        across: next(iter(sampler(labels, cameras, 2, 3, seed=1, across=across))).tolist()
        for across in (True, False)
    }
    assert drawn == {True: [0, 1, 3, 7, 6, 4], False: [0, 1, 3, 4, 7, 5]}


@pytest.mark.parametrize("across", [True, False])
def test_a_single_image_is_repeated(across: bool) -> None:
    rows = next(iter(sampler([0, 1], [0, 0], p=2, s=4, across=across)))
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


def images(count: int, size: int, seed: int = 0) -> ImageSampler:
    return ImageSampler(count, size=size, rng=np.random.default_rng(seed))


@given(count=st.integers(1, 30), size=st.integers(1, 12))
def test_images_come_at_most_once_per_pass(count: int, size: int) -> None:
    batches = list(islice(images(count, size), 2 * max(1, count // size)))
    assert all(len(batch) == size for batch in batches)
    if count < size:
        assert all(set(batch.tolist()) == set(range(count)) for batch in batches)
        return
    half = len(batches) // 2
    for part in (batches[:half], batches[half:]):
        drawn = np.concatenate(part)
        assert len(np.unique(drawn)) == len(drawn) == size * half
        assert set(drawn.tolist()) <= set(range(count))


def test_passes_over_images_are_shuffled() -> None:
    first, second = (batch.tolist() for batch in islice(images(20, 20), 2))
    assert first != sorted(first)
    assert first != second


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="no images"):
        images(0, 4)
