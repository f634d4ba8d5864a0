"""One search: hits and scores from the index, sightings from the store.

After each commit the store is ahead of the index for a moment. So a hit is looked up by its row
number: scores and filters of a replaced sighting never meet the metadata of the new one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from service.errors import BadLimitError, SightingNotFoundError
from service.gallery.index import VectorIndex
from service.store.statements import sighting_not_found
from service.store.store import Store
from service.types import ALL_DETAIL, Detail, Match, SightingFilter, Vector

SMALLER_SEARCH = (
    "send fewer queries per call, or a lower limit, or ask for matches without attributes "
    "(view SIGHTING_VIEW_COMPACT)"
)
"""What to do when a search finds more than an answer holds."""

_ATTEMPTS = 5
_PAUSE_S = 0.001


def search(
    index: VectorIndex,
    store: Store,
    site: str,
    queries: Sequence[Vector | str],
    limit: int,
    wanted: SightingFilter,
    detail: Detail = ALL_DETAIL,
) -> list[list[Match] | SightingNotFoundError]:
    """The matches of each query; a query is an embedding or the id of a sighting.

    Raises:
        BadLimitError: the matches have more attributes than `detail` allows.
    """
    answers: list[list[Match] | SightingNotFoundError] = []
    places: list[int] = []
    vectors: list[Vector] = []
    exclude: list[str | None] = []
    for query in queries:
        own = query if isinstance(query, str) else None
        vector = index.vector(query) if isinstance(query, str) else query
        if vector is None:
            answers.append(sighting_not_found(site, str(own)))
            continue
        places.append(len(answers))
        answers.append([])
        vectors.append(vector)
        exclude.append(own)
    if vectors:
        matrix = np.stack(vectors).astype(np.float32)
        found = _matches(index, store, matrix, limit, wanted, exclude, detail)
        for place, matches in zip(places, found, strict=True):
            answers[place] = matches
    return answers


def _matches(
    index: VectorIndex,
    store: Store,
    queries: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    limit: int,
    wanted: SightingFilter,
    exclude: Sequence[str | None],
    detail: Detail,
) -> list[list[Match]]:
    attempt = 0
    while True:
        attempt += 1
        hits = index.search(queries, limit, wanted, exclude)
        numbers = sorted({hit.number for row in hits for hit in row})
        known = store.sightings_by_number(numbers, detail)
        sizes = {number: sighting.attribute_bytes for number, sighting in known.items()}
        if sum(sizes.get(hit.number, 0) for row in hits for hit in row) > detail.max_bytes:
            raise BadLimitError(
                f"the attributes of all matches have more than {detail.max_bytes} bytes, which no "
                f"answer holds (RESIGHT_MAX_ANSWER_BYTES); {SMALLER_SEARCH}"
            )
        # A hit that was deleted or replaced meanwhile makes room for another one.
        if attempt == _ATTEMPTS or all(hit.number in known for row in hits for hit in row):
            return [
                [Match(known[hit.number], hit.score) for hit in row if hit.number in known]
                for row in hits
            ]
        time.sleep(_PAUSE_S)  # until the index has followed
