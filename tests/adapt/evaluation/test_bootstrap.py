"""Bootstrap of a difference: by hand, against a reference, coverage, bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from adapt.evaluation.bootstrap import paired_bootstrap, percentile_interval, resampled_means
from adapt.evaluation.metrics import RetrievalScores


def scores(*precision: float) -> RetrievalScores:
    count = len(precision)
    rows = np.arange(count)
    return RetrievalScores("market", 10, rows, np.array(precision), np.ones(count, np.int64), 10)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_two_people_by_hand() -> None:
    # Gains 0.2 and 0.4 of one person, -0.3 of another. Drawn twice each: 0.3, 0.3 with the
    # other's (0.3 / 3 = 0.1), or -0.3; probabilities 1/4, 1/2, 1/4.
    found = paired_bootstrap(
        scores(0.1, 0.1, 0.9), scores(0.3, 0.5, 0.6), np.array([5, 5, 8]), rng=rng(), confidence=0.9
    )
    assert found.difference == pytest.approx(0.1)
    assert [found.low, found.high] == pytest.approx([-0.3, 0.3])
    assert (found.identities, found.confidence) == (2, 0.9)
    inner = paired_bootstrap(
        scores(0.1, 0.1, 0.9), scores(0.3, 0.5, 0.6), np.array([5, 5, 8]), rng=rng(), confidence=0.4
    )
    assert [inner.low, inner.high] == pytest.approx([0.1, 0.1])


def test_equals_the_reference() -> None:
    ids = np.repeat(np.arange(20), [1, 2, 3, 4] * 5)
    before, after = rng(1).uniform(size=50), rng(2).uniform(size=50)
    found = paired_bootstrap(scores(*before), scores(*after), ids, rng=rng(3), resamples=4000)
    source, means = rng(4), []
    for _ in range(4000):
        drawn = np.concatenate([np.flatnonzero(ids == i) for i in source.integers(0, 20, 20)])
        means.append((after - before)[drawn].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.01)
    assert found.high == pytest.approx(high, abs=0.01)
    assert found.low < found.difference < found.high


def test_same_seed_same_interval_and_sign_follows_the_order() -> None:
    ids = np.arange(30)
    one, two = scores(*rng(5).uniform(size=30)), scores(*rng(6).uniform(size=30))
    there = paired_bootstrap(one, two, ids, rng=rng(), resamples=1001)
    assert there == paired_bootstrap(one, two, ids, rng=rng(), resamples=1001)
    back = paired_bootstrap(two, one, ids, rng=rng(), resamples=1001)
    assert [back.low, back.high] == pytest.approx([-there.high, -there.low])


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    source, covered = rng(7), 0
    for _ in range(200):
        person = np.repeat(source.normal(0.1, 0.2, 40), 3)  # gains shared by a person's queries
        gain = person + source.normal(0, 0.05, 120)
        zero = scores(*np.zeros(120))
        found = paired_bootstrap(
            zero,
            scores(*gain),
            np.repeat(np.arange(40), 3),
            rng=source,
            resamples=300,
            confidence=0.8,
        )
        covered += found.low <= 0.1 <= found.high
    assert 0.7 < covered / 200 < 0.9


def test_skipped_queries_keep_their_ids_in_place() -> None:
    one, two = scores(0.0, 0.0, 0.0), scores(1.0, 0.0, 0.0)
    rows = np.array([1, 3, 4])
    one, two = (replace(s, query_row=rows, without_match=2) for s in (one, two))
    found = paired_bootstrap(one, two, np.array([9, 1, 9, 2, 2]), rng=rng())
    assert found.identities == 2


def test_what_does_not_fit_is_refused() -> None:
    one, ids = scores(0.1, 0.2), np.array([1, 2])
    with pytest.raises(ValueError, match="same queries"):
        paired_bootstrap(one, scores(0.1, 0.2, 0.3), ids, rng=rng())
    with pytest.raises(ValueError, match="same queries"):
        paired_bootstrap(one, replace(one, protocol="other-camera"), ids, rng=rng())
    with pytest.raises(ValueError, match="3 query ids"):
        paired_bootstrap(one, one, np.array([1, 2, 3]), rng=rng())
    with pytest.raises(ValueError, match="confidence"):
        paired_bootstrap(one, one, ids, rng=rng(), confidence=1.0)


def test_resampled_means_by_hand() -> None:
    # groups of one and of two values; drawn twice: 0 0, 0 1 or 1 0, 1 1
    means = resampled_means(np.array([[3.0], [0.0], [6.0]]), np.array([9, 4, 4]), rng=rng())
    assert set(means[:, 0].tolist()) == {3.0}
    means = resampled_means(np.array([[1.0], [4.0], [6.0]]), np.array([9, 4, 4]), rng=rng())
    assert set(np.round(means[:, 0], 6).tolist()) == {1.0, round(11 / 3, 6), 5.0}
    assert percentile_interval(means[:, 0], 0.95) == (1.0, 5.0)


def test_resampled_means_of_two_models_are_paired() -> None:
    value, group = rng(1).uniform(size=(60, 3)), np.repeat(np.arange(20), 3)
    together = resampled_means(value, group, rng=rng(), resamples=700)
    alone = [resampled_means(v[:, None], group, rng=rng(), resamples=700)[:, 0] for v in value.T]
    assert together == pytest.approx(np.stack(alone, axis=1))
    gain = resampled_means(value[:, :1] - value[:, 1:2], group, rng=rng(), resamples=700)
    assert gain[:, 0] == pytest.approx(together[:, 0] - together[:, 1])


def test_resampled_means_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="must be"):
        resampled_means(np.zeros((0, 1)), np.zeros(0, np.int64), rng=rng())
    with pytest.raises(ValueError, match="must be"):
        resampled_means(np.zeros((2, 1)), np.zeros(3, np.int64), rng=rng())
    with pytest.raises(ValueError, match="resamples"):
        resampled_means(np.zeros((2, 1)), np.zeros(2, np.int64), rng=rng(), resamples=0)
