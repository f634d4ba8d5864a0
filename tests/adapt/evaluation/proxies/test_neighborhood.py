"""Density, reciprocity and camera bias: by hand, properties, a slow reference, pinned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.evaluation.proxies.neighborhood import (
    mutual_neighbors,
    nearest_camera_bias,
    neighborhood,
    neighborhood_density,
)
from adapt.evaluation.proxies.sightings import ProxyValue, Sightings
from tests.support.numbered_sites import people, sightings, unit

ANGLES = np.radians([0, 10, 30, 100])
CIRCLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1).astype(np.float32)


def all_three(
    feature: NDArray[np.float32], of: Sightings
) -> tuple[ProxyValue, ProxyValue | None, ProxyValue | None]:
    near = neighborhood(feature, of)
    return (
        neighborhood_density(near),
        mutual_neighbors(near, of),
        nearest_camera_bias(near, of),
    )


def test_density_by_hand() -> None:
    # each of three sees two others: similarities 1/2 and 0, at temperature 1/20 logits 10 and 0
    a = [1, 0, 0]
    b = [0.5, np.sqrt(0.75), 0]
    c = [0, 0, 1]
    density, _, _ = all_three(unit([a, b, c]), sightings([0, 0, 0]))
    p = 1 / (1 + np.exp(-10))
    sure = -p * np.log(p) - (1 - p) * np.log(1 - p)
    assert density.part is not None
    assert density.part == pytest.approx([sure, sure, np.log(2)], rel=1e-4)
    assert density.value == pytest.approx((2 * sure + np.log(2)) / 3, rel=1e-4)


def test_mutual_and_bias_by_hand() -> None:
    # at 0, 10, 30 and 100 degrees; cameras 0 0 1 1
    # nearest of the other camera: 0 -> 2, 1 -> 2, 2 -> 1, 3 -> 1; only 1 and 2 find each other
    # nearest of all: 0 -> 1, 1 -> 0, 2 -> 1, 3 -> 2; the same camera but for 2; by chance 1/3
    _, mutual, bias = all_three(CIRCLE, sightings([0, 0, 1, 1]))
    assert mutual is not None
    assert bias is not None
    assert mutual.part is not None
    assert mutual.part.tolist() == [0, 1, 1, 0]
    assert bias.part == pytest.approx(np.array([1, 1, 0, 1]) - 1 / 3)


def test_a_track_is_no_neighbor_of_itself_and_finds_itself_as_a_whole() -> None:
    of = sightings([0, 0, 1, 1], tracks=[5, 5, -1, -1])
    near = neighborhood(CIRCLE, of)
    assert near.nearest.tolist() == [2, 2, 1, 2]
    mutual, bias = mutual_neighbors(near, of), nearest_camera_bias(near, of)
    assert mutual is not None
    assert bias is not None
    assert mutual.part is not None
    # 0 -> 2 -> 1, which is of 0's track
    assert mutual.part.tolist() == [1, 1, 1, 0]
    # by chance 0 of 2 for the track, 1 of 3 for the others
    assert bias.part == pytest.approx([0, 0, -1 / 3, 1 - 1 / 3])


def test_all_alike_is_the_densest() -> None:
    same = np.tile(unit([[1, 2, 3]]), (9, 1))
    density, _, _ = all_three(same, sightings([0] * 9))
    assert density.value == pytest.approx(np.log(8), rel=1e-5)


def test_one_camera_or_one_track_has_no_figure() -> None:
    _, mutual, bias = all_three(CIRCLE, sightings([0] * 4))
    assert (mutual, bias) == (None, None)
    density, mutual, bias = all_three(CIRCLE, sightings([0] * 4, tracks=[1] * 4))
    assert (density.value, mutual, bias) == (0, None, None)


def slow(
    feature: NDArray[np.float32], of: Sightings
) -> tuple[list[float], list[bool], list[float]]:
    """One crop at a time, with lists."""
    total = len(of)
    wide = feature.astype(np.float64)
    density, mutual, bias = [], [], []

    def best(i: int, allowed: list[int]) -> int:
        return max(allowed, key=lambda j: (float(wide[i] @ wide[j]), -j))

    def across(i: int) -> int:
        return best(i, [j for j in range(total) if of.cameras[j] != of.cameras[i]])

    for i in range(total):
        others = [j for j in range(total) if of.groups[j] != of.groups[i]]
        weight = np.exp(np.array([wide[i] @ wide[j] for j in others]) / 0.05)
        p = weight / weight.sum()
        density.append(float(-(p * np.log(p)).sum()))
        mutual.append(bool(of.groups[across(across(i))] == of.groups[i]))
        same = sum(of.cameras[j] == of.cameras[i] for j in others)
        chance = same / len(others)
        bias.append(float(of.cameras[best(i, others)] == of.cameras[i]) - chance)
    return density, mutual, bias


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), crops=st.integers(6, 40), tracked=st.booleans())
def test_equals_the_reference(seed: int, crops: int, tracked: bool) -> None:
    rng = np.random.default_rng(seed)
    cameras = np.r_[0, 1, rng.integers(0, 3, crops - 2)]
    tracks = cameras * 100 + rng.integers(0, 4, crops) if tracked else np.full(crops, -1)
    of = sightings(cameras.tolist(), tracks.tolist())
    feature = unit(rng.normal(size=(crops, 6)))
    found = all_three(feature, of)
    for measured, expected in zip(found, slow(feature, of), strict=True):
        assert measured is not None
        assert measured.part is not None
        assert measured.row is not None
        assert measured.row.tolist() == list(range(crops))
        assert measured.part == pytest.approx(np.array(expected, float), abs=1e-4)
        assert measured.value == pytest.approx(np.array(expected, float).mean(), abs=1e-4)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_bounds_and_order_of_crops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    feature, of = people(noise=float(rng.uniform(0.2, 2)), shift=1, count=8, seed=seed)
    density, mutual, bias = all_three(feature, of)
    assert mutual is not None
    assert bias is not None
    assert 0 <= density.value <= np.log(len(of) - 1) + 1e-5
    assert 0 <= mutual.value <= 1
    assert -1 <= bias.value <= 1
    order = rng.permutation(len(of))
    mixed = Sightings(of.cameras[order], of.tracks[order], of.times[order])
    for one, other in zip((density, mutual, bias), all_three(feature[order], mixed), strict=True):
        assert other is not None
        assert one.value == pytest.approx(other.value, abs=1e-5)


@pytest.mark.parametrize("block_entries", [1, 5000])
def test_blocks_do_not_show(block_entries: int) -> None:
    """One row at a time, and eleven with a shorter last block."""
    feature, of = people(noise=1, shift=0.5)
    whole = neighborhood(feature, of)
    parts = neighborhood(feature, of, block_entries=block_entries)
    assert parts.entropy == pytest.approx(whole.entropy, abs=1e-5)
    assert parts.nearest.tolist() == whole.nearest.tolist()
    assert parts.cross_camera.tolist() == whole.cross_camera.tolist()


def test_pinned() -> None:
    density, mutual, bias = all_three(*people(noise=1.0, shift=0.5))
    assert mutual is not None
    assert bias is not None
    assert (density.value, mutual.value, bias.value) == pytest.approx(PINNED, abs=1e-3)


PINNED = (2.2605, 0.6533, -0.0236)


def test_lengths_have_to_fit() -> None:
    with pytest.raises(ValueError, match="do not fit 3 crops"):
        neighborhood(CIRCLE, sightings([0, 1, 1]))
