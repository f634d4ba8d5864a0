"""Track retrieval: facts that a tracker knows for certain, as queries.

Two facts need no label. Crops of one track show one person; two tracks that overlap in time in one
camera show two. Nothing is known of all other pairs: the same person may be on another track, in
another camera or an hour later, and a model that finds it is right. So a crop is only ranked
against what is known.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from adapt.evaluation.protocols import BLOCK_ENTRIES
from adapt.evaluation.proxies.sightings import ProxyValue, Sightings
from adapt.types import UNTRACKED

MIN_SECONDS = 2.0
"""A crop of the same track that is nearer in time is nearly the same picture and no test."""

SIMILARITY_ROUNDING = 1e-6
"""Similarities this close count as equal: it is what matrix products round by."""


def track_retrieval(
    feature_ND: NDArray[np.float32], sightings: Sightings, *, block_entries: int = BLOCK_ENTRIES
) -> ProxyValue | None:
    """Mean reciprocal rank of a crop's own track among people seen beside it.

        query i, of track t;    match m: the crop of t farthest from i in time, >= 2 s away
        known others: the crops of all tracks that overlap with t in time in its camera
        part: 1 / (1 + how many known others j have f_i . f_j >= f_i . f_m)

    One match for each query, the farthest: those close in time are trivially found, and would
    weigh long tracks up. Average precision of one match is its reciprocal rank. Equal similarities
    count against the model, so one vector for everything scores lowest. Only crops with a track and
    a time take part, and only those that have a match and a known other.

    Tracks that overlap in time are of different people as far as the tracker is right: it must not
    follow one person twice at once. All pairs are within one camera: the figure says nothing
    of matches across cameras.

    Args:
        feature_ND: rows of length 1.
        sightings: of the same crops.
        block_entries: similarities to hold at a time; at least one row is.

    Returns:
        In (0, 1], a part for each query; None where no crop can be a query.

    Raises:
        ValueError: the lengths differ.

    Source: ours; tracks as labels are common in unsupervised re-identification, as Li et al.,
        Unsupervised Person Re-identification by Deep Learning Tracklet Association, ECCV 2018.
    """
    if len(feature_ND) != len(sightings):
        raise ValueError(f"{len(feature_ND)} features do not fit {len(sightings)} crops")
    queries, parts = [], []
    for members, others in _tracks_with_others(sightings):
        query, match = _farthest_in_time(members, sightings.times)
        if not len(query):
            continue
        queries.append(query)
        rows = max(1, block_entries // len(others))
        for start in range(0, len(query), rows):
            block = slice(start, start + rows)
            asked = feature_ND[query[block]]
            to_match = np.einsum("qd,qd->q", asked, feature_ND[match[block]])
            nearer = asked @ feature_ND[others].T >= to_match[:, None] - SIMILARITY_ROUNDING
            parts.append(1 / (1 + nearer.sum(axis=1)))
    if not queries:
        return None
    row = np.concatenate(queries)
    return ProxyValue.mean_of(np.concatenate(parts).astype(np.float64), row)


def _farthest_in_time(
    members: NDArray[np.int64], times: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Crops of a track that can be queries, and the match of each. members: ordered by time."""
    first, last = members[0], members[-1]
    to_first, to_last = times[members] - times[first], times[last] - times[members]
    match = np.where(to_first > to_last, first, last)
    far = np.maximum(to_first, to_last) >= MIN_SECONDS
    return members[far], match[far]


def _tracks_with_others(
    sightings: Sightings,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Crops of each track, by time, and the crops of all tracks that overlap with it.

    Tracks that only touch do not overlap: a tracker that loses a person starts a new track.
    """
    known = np.flatnonzero((sightings.tracks != UNTRACKED) & np.isfinite(sightings.times))
    order = known[np.lexsort((known, sightings.times[known], sightings.tracks[known]))]
    if not len(order):
        return
    cuts = np.flatnonzero(np.diff(sightings.tracks[order])) + 1
    tracks = np.split(order, cuts)
    start, end = (sightings.times[[each[end] for each in tracks]] for end in (0, -1))
    camera = sightings.cameras[[each[0] for each in tracks]]
    for number, members in enumerate(tracks):
        overlap = (np.minimum(end, end[number]) > np.maximum(start, start[number])) & (
            camera == camera[number]
        )
        overlap[number] = False
        if overlap.any():
            yield members, np.concatenate([tracks[i] for i in np.flatnonzero(overlap)])
