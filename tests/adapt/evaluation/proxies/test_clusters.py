"""Cluster figures: by hand, properties, a slow reference, pinned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.evaluation.proxies.clusters import (
    SiteClusters,
    cluster_proxies,
    cluster_site,
    shared_share,
)
from tests.support.numbered_sites import people, sightings


def labels(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def test_shared_share_by_hand() -> None:
    # crop 0: {0, 1, 2} and {0, 1, 3}: 2 of 4. crop 2: {0, 1, 2} and {2}: 1 of 3; 4 is left out once
    first, second = labels(0, 0, 0, 1, -1), labels(3, 3, 5, 3, 3)
    # {0, 1, 3, 4} in the second: crop 0 shares {0, 1} of {0, 1, 2, 3, 4}; crop 3 shares {3} of 4
    assert shared_share(first, second) == pytest.approx([2 / 5, 2 / 5, 1 / 3, 1 / 4, 0])


def test_shared_share_of_outliers_alone() -> None:
    assert shared_share(labels(-1, -1), labels(0, -1)).tolist() == [0, 0]
    assert shared_share(labels(), labels()).tolist() == []


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), crops=st.integers(1, 40))
def test_shared_share_equals_the_reference(seed: int, crops: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(-1, 6, (2, crops))
    expected = []
    for i in range(crops):
        if -1 in (first[i], second[i]):
            expected.append(0.0)
            continue
        one, other = ({j for j in range(crops) if x[j] == x[i]} for x in (first, second))
        expected.append(len(one & other) / len(one | other))
    found = shared_share(first, second)
    assert found == pytest.approx(expected)
    assert shared_share(second, first) == pytest.approx(expected), "symmetric"
    assert ((shared_share(first, first) == 1) == (first >= 0)).all()


def test_figures_by_hand() -> None:
    found = SiteClusters(
        labels=labels(0, 0, 0, 1, 1, -1),
        silhouettes=np.array([0.5, 0.4, 0.3, 0.2, 0.1, 0]),
        common=np.array([0, 1, 2, 3]),
        first=labels(0, 0, 1, 1),
        second=labels(4, 4, 2, 2),
    )
    figures = cluster_proxies(found, sightings([0, 1, 0, 1, 1, 0]))
    values = {name: each.value for name, each in figures.items() if each is not None}
    assert values == pytest.approx(
        {
            "silhouette": 0.25,
            "clustered": 5 / 6,
            "cross_camera": 3 / 6,
            "stability": 1.0,
            "agreement": 1.0,
        }
    )
    assert found.largest_share == 0.5
    one_camera = cluster_proxies(found, sightings([0] * 6))
    assert one_camera["cross_camera"] is None


def test_a_good_model_falls_into_its_people() -> None:
    feature, of = people(noise=0.3, shift=0)
    found = cluster_site(feature, of, seed=1)
    person = np.repeat(np.arange(30), 15)
    assert len(np.unique(np.stack([found.labels, person]), axis=1).T) == 30
    figures = cluster_proxies(found, of)
    for name in ("clustered", "cross_camera", "agreement"):
        measured = figures[name]
        assert measured is not None
        assert measured.value == 1, name
    # stability is below 1: fewer crops of a person leave some of them without neighbors
    assert figures["stability"] is not None
    assert 0.85 < figures["stability"].value <= 1
    # the resamples leave whole tracks out
    drawn = np.isin(np.arange(len(of)), found.common)
    assert 0.5 < drawn.mean() < 0.75
    for track in np.unique(of.tracks):
        assert len(set(drawn[of.tracks == track])) == 1


def test_what_cannot_be_clustered_is_all_outliers() -> None:
    rng = np.random.default_rng(0)
    feature = rng.normal(size=(120, 64)).astype(np.float32)
    of = sightings([0, 1] * 60)
    found = cluster_site(feature, of, seed=1)
    figures = cluster_proxies(found, of)
    for name in ("silhouette", "clustered", "cross_camera", "stability"):
        measured = figures[name]
        assert measured is not None
        assert measured.value == 0, name
    assert figures["agreement"] is None
    assert found.largest_share == 0


def test_resamples_depend_on_the_seed_and_not_on_the_model() -> None:
    good, of = people(noise=0.3, shift=0)
    bad, _ = people(noise=2.0, shift=1)
    one, other, third = (
        cluster_site(good, of, seed=1),
        cluster_site(bad, of, seed=1),
        cluster_site(good, of, seed=2),
    )
    assert one.common.tolist() == other.common.tolist() != third.common.tolist()


def test_pinned() -> None:
    feature, of = people(noise=0.9, shift=0.5)
    figures = cluster_proxies(cluster_site(feature, of, seed=0), of)
    values = [None if each is None else each.value for each in figures.values()]
    assert values == pytest.approx([0.4094, 0.6533, 0.6333, 0.4977, 0.9709], abs=1e-3)
