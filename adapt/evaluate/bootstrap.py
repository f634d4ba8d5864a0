"""How sure a difference of two models' mAP is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapt.evaluate.metrics import RetrievalScores

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
    if len(query_ids) != before.queries + before.skipped_queries:
        raise ValueError(f"{len(query_ids)} query ids do not fit the scored queries")
    if resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"resamples {resamples} must be >= 1, confidence {confidence} in (0, 1)")
    gain = after.average_precision - before.average_precision
    _, group = np.unique(query_ids[before.query_row], return_inverse=True)
    gain_of, queries_of = np.bincount(group, weights=gain), np.bincount(group)
    people = len(queries_of)
    found = np.empty(resamples)
    for start in range(0, resamples, RESAMPLES_AT_A_TIME):
        part = found[start : start + RESAMPLES_AT_A_TIME]
        times_drawn = rng.multinomial(people, np.full(people, 1 / people), size=len(part))
        part[:] = (times_drawn @ gain_of) / (times_drawn @ queries_of)
    tail = (1 - confidence) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return Interval(float(gain.mean()), float(low), float(high), confidence, people)
