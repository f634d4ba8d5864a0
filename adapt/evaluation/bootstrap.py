"""Bootstrap intervals of the difference of two models, in mAP or another mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapt.evaluation.metrics import RetrievalScores

RESAMPLES_AT_A_TIME = 500


@dataclass(frozen=True)
class Interval:
    """A difference of mAP, `after` minus `before`, as fractions.

    low, high: ends of the bootstrap interval. identities: people it was drawn over.
    """

    difference: float
    low: float
    high: float
    confidence: float
    identities: int


def paired_bootstrap(
    before: RetrievalScores,
    after: RetrievalScores,
    query_ids: NDArray[np.int64],
    *,
    rng: np.random.Generator,
    resamples: int = 10_000,
    confidence: float = 0.95,
) -> Interval:
    """Bootstrap interval of the difference of two models' mAP on the same queries.

        difference of a resample = mean of AP_after - AP_before over the queries of identities
        drawn with replacement, as many as there are

    Identities are drawn, not queries: one person's queries rise and fall together.

    Args:
        before: scores of one model.
        after: scores of the other, on the same data under the same protocol.
        query_ids: (all queries,) identities, as given to `evaluate_ranking`.
        rng: source of the resamples.
        resamples: >= 1.
        confidence: share of resamples inside the interval, in (0, 1).

    Returns:
        The difference and its percentile interval.

    Raises:
        ValueError: the two scores are of different queries or protocols, or numbers are out of
            range.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile).
    """
    same = np.array_equal(before.query_row, after.query_row)
    if not same or (before.protocol, before.gallery) != (after.protocol, after.gallery):
        raise ValueError("both scores must be of the same queries, gallery and protocol")
    if len(query_ids) != before.rows:
        raise ValueError(f"{len(query_ids)} query ids do not fit the scored queries")
    if resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"resamples {resamples} must be >= 1, confidence {confidence} in (0, 1)")
    gain = after.average_precision - before.average_precision
    _, group = np.unique(query_ids[before.query_row], return_inverse=True)
    gain_of = np.bincount(group, weights=gain).astype(np.float64)
    queries_of = np.bincount(group)
    found = _resampled(gain_of[:, None], queries_of, rng, resamples)[:, 0]
    low, high = percentile_interval(found, confidence)
    return Interval(float(gain.mean()), low, high, confidence, len(queries_of))


def resampled_means(
    value_QK: NDArray[np.float64],
    group_Q: NDArray[np.int64],
    *,
    rng: np.random.Generator,
    resamples: int = 2000,
) -> NDArray[np.float64]:
    """Means of resamples in which whole groups are drawn with replacement.

        mean of a resample = sum of the values of the groups drawn / how many values they have

    All K columns see the same draws, and the draws follow from the groups and the state of `rng`
    alone: means of two models from equal generators are paired, and may be subtracted.

    Args:
        value_QK: (Q, K) what is averaged, Q >= 1; a column for each model.
        group_Q: (Q,) what rises and falls together: the identity, or the track.
        rng: source of the resamples.
        resamples: >= 1.

    Returns:
        (resamples, K).

    Raises:
        ValueError: there is no value, lengths differ, or resamples is out of range.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13.
    """
    if value_QK.ndim != 2 or not len(value_QK) or group_Q.shape != value_QK.shape[:1]:
        raise ValueError(f"values {value_QK.shape} and groups {group_Q.shape} must be (Q, K), (Q,)")
    if resamples < 1:
        raise ValueError(f"resamples must be >= 1, got {resamples}")
    _, group = np.unique(group_Q, return_inverse=True)
    sums = [np.bincount(group, weights=column) for column in value_QK.T]
    sum_GK = np.stack(sums, axis=1).astype(np.float64)
    return _resampled(sum_GK, np.bincount(group), rng, resamples)


def percentile_interval(means: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Ends of the middle `confidence` of resampled figures (R,)."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _resampled(
    sum_GK: NDArray[np.float64],
    count_G: NDArray[np.int64],
    rng: np.random.Generator,
    resamples: int,
) -> NDArray[np.float64]:
    """(resamples, K) means, from each group's sums and number of values."""
    groups = len(count_G)
    found = np.empty((resamples, sum_GK.shape[1]))
    for start in range(0, resamples, RESAMPLES_AT_A_TIME):
        part = found[start : start + RESAMPLES_AT_A_TIME]
        times_drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=len(part))
        part[:] = (times_drawn @ sum_GK) / (times_drawn @ count_G)[:, None]
    return found
