"""Retrieval scores: mAP and CMC of queries against a gallery.

Shape suffixes: Q queries, G gallery images, D embedding dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from adapt.errors import DataError, NonFiniteFeaturesError
from models.wording import plural

ProtocolName = Literal["market", "other-camera"]

JUNK = -1
"""Identity of images that count neither for nor against a model (Market-1501 names them -1)."""

BLOCK_ENTRIES = 4_000_000
"""Similarities ranked at a time (about 100 MB with what is derived from them)."""


@dataclass(frozen=True)
class RetrievalScores:
    """How well the scored queries found their matches; figures are fractions in [0, 1].

    protocol: which gallery images were set aside for each query.
    gallery: gallery images, without junk.
    skipped_queries: queries left out because the gallery holds no match for them.
    query_row: (Q,) which rows of the query set were scored, ascending.
    average_precision: (Q,) of each scored query.
    first_hit: (Q,) rank of its first match, from 1.
    """

    protocol: ProtocolName
    gallery: int
    skipped_queries: int
    query_row: NDArray[np.int64]
    average_precision: NDArray[np.float64]
    first_hit: NDArray[np.int64]

    @property
    def queries(self) -> int:
        """Scored queries."""
        return len(self.query_row)

    @property
    def mAP(self) -> float:  # noqa: N802 - the field's name for it
        """Mean average precision."""
        return float(self.average_precision.mean())

    def cmc(self, rank: int) -> float:
        """Share of scored queries with a match among the first `rank` answers."""
        return float((self.first_hit <= rank).mean())

    def to_dict(self) -> dict[str, float | int | str]:
        """What `resight evaluate --json` prints."""
        return {
            "mAP": self.mAP,
            "cmc1": self.cmc(1),
            "cmc5": self.cmc(5),
            "cmc10": self.cmc(10),
            "queries": self.queries,
            "gallery": self.gallery,
            "protocol": self.protocol,
        }


def evaluate_ranking(
    query_features: NDArray[np.floating],
    query_ids: NDArray[np.int64],
    query_cameras: NDArray[np.int64],
    gallery_features: NDArray[np.floating],
    gallery_ids: NDArray[np.int64],
    gallery_cameras: NDArray[np.int64],
    *,
    protocol: ProtocolName,
) -> RetrievalScores:
    """Rank the gallery for every query by cosine similarity and score the rankings.

        AP = 1/M sum_m m / rank of the m-th match, over the M matches of a query
        CMC-k = share of queries whose first match ranks k or better

    AP is the mean of the precision at each match (as in scikit-learn and torchreid), not the area
    by trapezoids of Market-1501's own kit, which is a little higher. Equal similarities rank in
    gallery order. Gallery images set aside for a query take no rank:
        market: those of the query's identity in the query's camera
        other-camera: all in the query's camera
    Gallery images of identity -1 are junk and left out. Market-1501's distractors (0000) need no
    rule: no query has their identity, so they only push matches down. A query without a match is
    skipped.

    Args:
        query_features: (Q, D) any scale; rows are L2-normalized here.
        query_ids: (Q,) integers; -1 unknown, such a query is skipped.
        query_cameras: (Q,) integer codes.
        gallery_features: (G, D).
        gallery_ids: (G,) integers; -1 junk.
        gallery_cameras: (G,) codes in the numbering of query_cameras.
        protocol: see above.

    Returns:
        Scores and their parts per query.

    Raises:
        DataError: shapes do not fit, a set is empty, a feature row is zero, or no query has a
            match. NonFiniteFeaturesError: features hold NaN or infinity.
        ValueError: the protocol is not known.

    Source: Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015.
    """
    if protocol not in ("market", "other-camera"):
        raise ValueError(f"protocol must be market or other-camera, got {protocol!r}")
    query = _Labelled.of("query", query_features, query_ids, query_cameras)
    gallery = _Labelled.of("gallery", gallery_features, gallery_ids, gallery_cameras)
    gallery = gallery.without_junk()
    average_precision, first_hit = _score_all(query, gallery, protocol)
    scored = np.flatnonzero(first_hit)
    return RetrievalScores(
        protocol=protocol,
        gallery=len(gallery.ids),
        skipped_queries=len(query.ids) - len(scored),
        query_row=scored,
        average_precision=average_precision[scored],
        first_hit=first_hit[scored],
    )


@dataclass(frozen=True)
class _Labelled:
    """A checked set: (N, D) rows of length 1, (N,) ids and cameras."""

    unit: NDArray[np.float32]
    ids: NDArray[np.int64]
    cameras: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        name: str,
        features: NDArray[np.floating],
        ids: NDArray[np.int64],
        cameras: NDArray[np.int64],
    ) -> _Labelled:
        """Raises DataError that calls the set by its name."""
        if features.ndim != 2 or ids.shape != features.shape[:1] or cameras.shape != ids.shape:
            raise DataError(
                f"{name} features {features.shape}, ids {ids.shape} and cameras {cameras.shape} "
                "must be (N, D), (N,) and (N,)"
            )
        if not len(ids) or (name == "gallery" and (ids == JUNK).all()):
            raise DataError(f"the {name} holds no usable image: add labelled crops to it")
        return cls(_unit(name, features), ids, cameras)

    def without_junk(self) -> _Labelled:
        """The images that are not junk."""
        kept = self.ids != JUNK
        return _Labelled(self.unit[kept], self.ids[kept], self.cameras[kept])


def _score_all(
    query: _Labelled, gallery: _Labelled, protocol: ProtocolName
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(Q,) AP and rank of the first match of each query, 0 without one; by blocks of queries.

    Raises DataError: the sets have other dimensions, or no query has a match.
    """
    if query.unit.shape[1] != gallery.unit.shape[1]:
        raise DataError(
            f"query features have {query.unit.shape[1]} dimensions, gallery features "
            f"{gallery.unit.shape[1]}: extract both with the same model"
        )
    total = len(query.ids)
    average_precision, first_hit = np.zeros(total), np.zeros(total, np.int64)
    rows = max(1, BLOCK_ENTRIES // max(1, len(gallery.ids)))
    for start in range(0, total, rows):
        part = slice(start, start + rows)
        same_id = query.ids[part, None] == gallery.ids
        aside = query.cameras[part, None] == gallery.cameras
        if protocol == "market":
            aside &= same_id
        average_precision[part], first_hit[part] = _score(
            query.unit[part] @ gallery.unit.T, same_id & ~aside, aside
        )
    if not first_hit.any():
        raise DataError(
            f"none of {plural(total, 'query', 'queries')} has a match among "
            f"{plural(len(gallery.ids), 'gallery image')} under the protocol {protocol}: a "
            "match shows the query's identity in another camera; check that query and gallery "
            "share identities and that camera codes are right"
        )
    return average_precision, first_hit


def _score(
    similarity: NDArray[np.float32], match: NDArray[np.bool_], aside: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """AP and rank of the first match of each row, 0 where there is no match."""
    similarity[aside] = -np.inf  # ranks last, where it moves no match
    order = np.argsort(-similarity, axis=1, kind="stable")
    hit = np.take_along_axis(match, order, axis=1)
    row, place = np.nonzero(hit)
    matches = hit.sum(axis=1)
    first_of_row = np.cumsum(matches) - matches
    nth_match = np.arange(len(row)) - first_of_row[row] + 1
    precision = np.bincount(row, weights=nth_match / (place + 1), minlength=len(hit))
    first_hit = np.where(matches > 0, hit.argmax(axis=1) + 1, 0)
    return precision / np.maximum(matches, 1), first_hit


def _unit(name: str, features: NDArray[np.floating]) -> NDArray[np.float32]:
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise NonFiniteFeaturesError(int(bad[0]), len(bad))
    length = np.sqrt(np.einsum("nd,nd->n", features, features, dtype=np.float64))
    huge = np.flatnonzero(~np.isfinite(length))
    if len(huge):
        raise NonFiniteFeaturesError(int(huge[0]), len(huge))
    zero = np.flatnonzero(length == 0)
    if len(zero):
        raise DataError(
            f"{plural(len(zero), f'{name} feature row')} with nothing but zeros (first: row "
            f"{zero[0]}): no direction to compare; extract the features again"
        )
    unit = np.empty(features.shape, np.float32)
    np.divide(features, length[:, None], out=unit, casting="same_kind")
    return unit
