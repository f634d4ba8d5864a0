"""The guards on pseudo labels: each figure by hand, each rule on both sides of its limit."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from adapt.clustering.labels.guards import LabelReport, check_labels
from adapt.errors import ClusteringError
from adapt.types import PseudoLabels


def labels(*values: int) -> PseudoLabels:
    return PseudoLabels(np.array(values, np.int64), "a test")


def check(
    now: PseudoLabels, previous: PseudoLabels | None = None, per_batch: int = 2
) -> LabelReport:
    cameras = np.zeros(len(now.labels), np.int64)
    return check_labels(now, cameras, identities_per_batch=per_batch, previous=previous)


def test_figures_by_hand() -> None:
    now = labels(0, 0, 0, 1, 1, 2, -1, -1)
    cameras = np.array([0, 0, 1, 5, 5, 7, 1, 2])
    report = check_labels(now, cameras, identities_per_batch=2)
    assert (report.clusters, report.outlier_share) == (3, 0.25)
    assert (report.smallest, report.median, report.largest) == (1, 2.0, 3)
    assert report.cross_camera_share == pytest.approx(1 / 3)
    assert report.warnings == ()
    assert "agreement" not in report.metrics()
    assert report.metrics()["cluster_size_max"] == 3.0


def test_renamed_clusters_are_the_same_clusters() -> None:
    report = check(labels(1, 1, 0, 0, -1), labels(0, 0, 1, 1, -1))
    assert (report.agreement, report.changed_share) == (1.0, 0.0)
    assert report.metrics()["changed_share"] == 0.0


def test_changes_by_hand() -> None:
    # before A A A B B B -, now: one A moved to B, one B became an outlier, the outlier joined A
    before = labels(0, 0, 0, 1, 1, 1, -1)
    now = labels(0, 0, 1, 1, 1, -1, 0)
    report = check(now, before)
    assert report.changed_share == pytest.approx(3 / 7)
    # over the five images clustered in both: AA|AAB vs AA|BBB; 2 of 4 and 2 of 4 pairs kept
    assert report.agreement == pytest.approx((2 - 1.6) / (4 - 1.6))


def test_a_split_cluster_keeps_its_larger_half() -> None:
    report = check(labels(0, 0, 0, 2, 2, 1, 1), labels(0, 0, 0, 0, 0, 1, 1))
    assert report.changed_share == pytest.approx(2 / 7)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1))
def test_changed_share_is_symmetric_and_blind_to_names(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, two = (
        PseudoLabels(np.r_[np.arange(4), np.arange(4), rng.integers(-1, 4, 12)], "") for _ in "ab"
    )
    assume(all(2 * labelled.sizes.max() <= labelled.sizes.sum() for labelled in (one, two)))
    names = np.r_[rng.permutation(4), -1]
    renamed = PseudoLabels(names[one.labels], "")
    there, back, same = check(one, two), check(two, one), check(renamed, two)
    assert there.changed_share == pytest.approx(back.changed_share)
    assert there.changed_share == pytest.approx(same.changed_share)
    assert there.agreement == pytest.approx(back.agreement)


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), now=st.integers(3, 12), before=st.integers(1, 12))
def test_changed_share_equals_a_dense_assignment(seed: int, now: int, before: int) -> None:
    rng = np.random.default_rng(seed)
    new = rng.permutation(np.r_[np.arange(48) % now, np.full(12, -1)])
    old = rng.permutation(np.r_[np.arange(before), rng.integers(-1, before, 60 - before)])
    common = np.array(
        [[((new == i) & (old == j)).sum() for j in range(before)] for i in range(now)]
    )
    kept = common[linear_sum_assignment(common, maximize=True)].sum()
    kept += ((new == -1) & (old == -1)).sum()
    report = check_labels(
        PseudoLabels(new, "now"),
        np.zeros(60, np.int64),
        identities_per_batch=2,
        previous=PseudoLabels(old, "before"),
    )
    assert report.changed_share == pytest.approx(1 - kept / 60)


def test_no_image_clustered_in_both_rounds() -> None:
    report = check(labels(0, 1, -1, -1), labels(-1, -1, 0, 1))
    assert report.agreement is None
    assert report.changed_share == 1.0


def test_too_few_clusters() -> None:
    three = labels(0, 0, 1, 1, 2, 2)
    assert check(three, per_batch=3).clusters == 3
    with pytest.raises(ClusteringError, match="3 clusters, but batches need 4"):
        check(three, per_batch=4)
    with pytest.raises(ClusteringError, match="1 cluster, but batches need 2"):
        check(labels(0, 0, 0), per_batch=1)


def test_too_many_outliers() -> None:
    noise = [-1] * 95
    assert check(labels(0, 0, 1, 1, 2, *noise)).outlier_share == 0.95
    with pytest.raises(ClusteringError, match=r"96\.0% of 100 images are outliers"):
        check(labels(0, 0, 1, 1, *noise, -1))
    with pytest.raises(ClusteringError, match=r"95\.1% of 1000 images are outliers"):
        check(labels(*np.arange(49), *[-1] * 951))
    with pytest.raises(ClusteringError, match="outliers"):
        check(labels(-1, -1, -1))


def test_one_cluster_with_more_than_half() -> None:
    assert check(labels(0, 0, 1, 1, -1)).largest == 2
    with pytest.raises(ClusteringError, match="one cluster holds 3 of 5"):
        check(labels(0, 0, 0, 1, 2, -1))


def test_warnings_on_both_sides_of_their_limits() -> None:
    assert check(labels(0, 0, 1, 1, *[-1] * 6)).warnings == ()
    (many,) = check(labels(0, 0, 1, 1, *[-1] * 7)).warnings
    assert "64% of the images are outliers" in many
    two, four, five = labels(0, 0, 0, 1, 1, 1), labels(0, 0, 1, 2, 3, 3), labels(0, 0, 1, 2, 3, 4)
    assert check(four, two).warnings == ()
    assert check(two, four).warnings == ()
    for now, before in ((five, two), (two, five)):
        (jump,) = check(now, before).warnings
        assert f"from {before.clusters} to {now.clusters}" in jump


def test_nothing_to_label() -> None:
    with pytest.raises(ClusteringError, match="no images"):
        check(labels())


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="same images"):
        check(labels(0, 0, 1, 1), labels(0, 0, 1))
    with pytest.raises(ValueError, match="same images"):
        check_labels(labels(0, 0, 1, 1), np.zeros(3, np.int64), identities_per_batch=2)


def test_the_radius_is_a_figure_where_there_is_one() -> None:
    found = PseudoLabels(np.array([0, 0, 1, 1]), "dbscan", radius=0.4)
    assert check(found).metrics()["radius"] == 0.4
    assert "radius" not in check(labels(0, 0, 1, 1)).metrics()


@pytest.mark.parametrize(
    ("persons", "text"),
    [
        ([0, 0, 1, 1], r"show 2 people, but batches need 4; .*lower batch\.identities with --set"),
        ([0] * 5 + [1, 2, 3], "one person has 5 of the 8 labelled crops, more than half"),
    ],
)
def test_true_identities_are_refused_without_words_of_clustering(
    persons: list[int], text: str
) -> None:
    true = PseudoLabels(np.array(persons, np.int64), "true identities", known=True)
    with pytest.raises(ClusteringError, match=text) as caught:
        check(true, per_batch=4)
    assert not re.search("cluster|DBSCAN|radius|k-means", str(caught.value))


def test_true_identities_have_the_same_limits_as_clusters() -> None:
    for known in (False, True):
        half = PseudoLabels(np.array([0, 0, 0, 1, 1, 2], np.int64), "", known=known)
        assert check(half, per_batch=3).clusters == 3
