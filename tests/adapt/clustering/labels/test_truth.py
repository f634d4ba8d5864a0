"""Clusters beside true identities: by hand, as properties, by counting pairs, pinned."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt.clustering.labels.truth import truth_figures

IMAGES = st.lists(st.tuples(st.integers(-1, 4), st.integers(-1, 4)), min_size=1, max_size=25)


def figures(labels: list[int], persons: list[int]) -> dict[str, float]:
    return truth_figures(np.array(labels, np.int64), np.array(persons, np.int64))


def test_by_hand() -> None:
    # pairs of one cluster: 01, 34; of one person: 01, 02, 12, 34; of both: 01, 34
    found = figures([0, 0, -1, 1, 1], [7, 7, 7, 8, 8])
    assert found == {"ari": 1.0, "pair_f": pytest.approx(2 * 2 / (2 + 4))}


def test_images_of_unknown_people_do_not_count() -> None:
    known = figures([0, 0, 1, -1], [3, 4, 4, 3])
    assert figures([0, 0, 0, 1, -1, 1], [3, -1, 4, 4, 3, -1]) == known


def test_without_anything_to_measure_on_there_is_no_figure() -> None:
    assert figures([-1, -1], [1, 2]) == {}
    assert figures([0, 0], [-1, -1]) == {}
    assert figures([-1, -1], [1, 1]) == {"pair_f": 0.0}


@given(IMAGES)
def test_pairs_are_counted(images: list[tuple[int, int]]) -> None:
    kept = [(label, person) for label, person in images if person >= 0]
    cluster = person = both = 0
    for (one, a), (other, b) in combinations(kept, 2):
        cluster += one == other >= 0
        person += a == b
        both += one == other >= 0 and a == b
    expected = None if not cluster + person else 2 * both / (cluster + person)
    found = figures([i[0] for i in images], [i[1] for i in images])
    assert found.get("pair_f") == (expected if expected is None else pytest.approx(expected))


@given(IMAGES, st.permutations(range(5)))
def test_names_of_clusters_mean_nothing(images: list[tuple[int, int]], names: list[int]) -> None:
    labels, persons = [i[0] for i in images], [i[1] for i in images]
    renamed = [names[label] if label >= 0 else label for label in labels]
    assert figures(renamed, persons) == pytest.approx(figures(labels, persons))


@given(st.lists(st.integers(0, 5), min_size=2, max_size=20).filter(lambda p: len(set(p)) < len(p)))
def test_people_themselves_are_right(persons: list[int]) -> None:
    assert figures(persons, persons) == {"ari": pytest.approx(1), "pair_f": pytest.approx(1)}


def test_pinned() -> None:
    i = np.arange(60)
    found = truth_figures(i * i % 7 - 1, i % 5)
    assert found == {
        "ari": pytest.approx(-0.045473000406, abs=1e-9),
        "pair_f": pytest.approx(0.173441734417, abs=1e-9),
    }


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \(N,\) both"):
        figures([0, 1], [0])
