"""Retrieval scores: mAP and CMC of queries against a gallery.

Shape suffixes: Q queries, G gallery images, D embedding dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapt.errors import DataError, NonFiniteFeaturesError, ZeroFeaturesError
from adapt.evaluation.protocols import (
    JUNK,
    MATCH,
    REMEDY,
    Labels,
    ProtocolName,
    blocks,
    no_match,
    pairs,
)
from models.wording import plural

RANKS = (1, 5, 10)
"""Of CMC, in what is printed."""

MANY_WITHOUT_MATCH = 0.1
"""Share of the queries without a match above which it is doubted that the scores say much."""


@dataclass(frozen=True)
class RetrievalScores:
    """How well the judged queries found their matches, and what was left out.

    protocol: which gallery images were set aside for each query.
    gallery: gallery images, without junk.
    query_row: (Q,) which rows of the query set were judged, ascending.
    average_precision: (Q,) of each judged query, a fraction.
    first_hit: (Q,) rank of its first match, from 1.
    min_ranked: gallery images that a judged query was ranked against, at least.
    without_match: queries left out because no gallery image that counts shows their person.
    junk, gallery_junk: queries and gallery images left out because nobody knows who they show.
    unreadable, gallery_unreadable: the same because they cannot be read.
    unknown_cameras, gallery_unknown_cameras: those whose camera is not known; they may be in
        `without_match`, or set aside.
    """

    protocol: ProtocolName
    gallery: int
    query_row: NDArray[np.int64]
    average_precision: NDArray[np.float64]
    first_hit: NDArray[np.int64]
    min_ranked: int
    without_match: int = 0
    junk: int = 0
    gallery_junk: int = 0
    unreadable: int = 0
    gallery_unreadable: int = 0
    unknown_cameras: int = 0
    gallery_unknown_cameras: int = 0

    @property
    def queries(self) -> int:
        """Judged queries."""
        return len(self.query_row)

    @property
    def rows(self) -> int:
        """Rows of the query set that was ranked."""
        return self.queries + self.without_match + self.junk

    @property
    def asked(self) -> int:
        """Queries of the set, with those that were left out."""
        return self.rows + self.unreadable

    @property
    def mAP(self) -> float:  # noqa: N802 - the field's name for it
        """Mean average precision of the judged queries."""
        return float(self.average_precision.mean())

    def cmc(self, rank: int) -> float:
        """Share of judged queries with a match among the first `rank` answers."""
        return float((self.first_hit <= rank).mean())

    def to_dict(self) -> dict[str, float | int | str]:
        """What `resight evaluate --json` prints."""
        return {
            "mAP": self.mAP,
            **{f"cmc{rank}": self.cmc(rank) for rank in RANKS},
            "queries": self.queries,
            "gallery": self.gallery,
            "protocol": self.protocol,
            "queries_asked": self.asked,
            "queries_without_match": self.without_match,
            "queries_junk": self.junk,
            "queries_unreadable": self.unreadable,
            "queries_unknown_camera": self.unknown_cameras,
            "gallery_junk": self.gallery_junk,
            "gallery_unreadable": self.gallery_unreadable,
            "gallery_unknown_camera": self.gallery_unknown_cameras,
            "gallery_ranked_min": self.min_ranked,
        }

    def in_words(self) -> str:
        """Queries and gallery with what is left out, as "1 of 4 queries (3 have ...), 9 in ..."."""
        left_out = [
            f"{self.without_match} {_have(self.without_match)} no {MATCH[self.protocol]}"
            if self.without_match
            else "",
            f"{self.junk} junk" if self.junk else "",
            f"{self.unreadable} cannot be read" if self.unreadable else "",
        ]
        judged = plural(self.queries, "query", "queries")
        if self.asked > self.queries:
            judged = f"{self.queries} of {plural(self.asked, 'query', 'queries')}"
        left_out_of_gallery = [
            f"{self.gallery_junk} junk left out" if self.gallery_junk else "",
            f"{self.gallery_unreadable} cannot be read" if self.gallery_unreadable else "",
        ]
        gallery = f"{self.gallery} in gallery{_in_brackets(left_out_of_gallery)}"
        return f"{judged}{_in_brackets(left_out)}, {gallery}"

    def doubts(self) -> list[str]:
        """What makes the figures say less than they seem to; warnings for people."""
        found = []
        known = self.queries + self.without_match
        if self.without_match > MANY_WITHOUT_MATCH * known:
            remedy = "" if self.protocol == "any-camera" else f"; {REMEDY}"
            found.append(
                f"{self.without_match} of {plural(known, 'query', 'queries')} "
                f"{_have(self.without_match)} no {MATCH[self.protocol]}, in no figure: "
                f"check identities{'' if self.protocol == 'any-camera' else ' and cameras'}{remedy}"
            )
        if self.protocol != "any-camera" and (self.unknown_cameras or self.gallery_unknown_cameras):
            found.append(
                f"{plural(self.unknown_cameras, 'query', 'queries')} and "
                f"{plural(self.gallery_unknown_cameras, 'gallery image')} have no known camera, "
                f"which may be the one asked from, so none of them is a match; {REMEDY}"
            )
        certain = [f"CMC-{rank}" for rank in RANKS if rank >= self.min_ranked]
        if certain:
            found.append(
                f"a query is ranked against as few as {plural(self.min_ranked, 'gallery image')}"
                f", where {', '.join(certain)} cannot but be 1: give a larger gallery"
            )
        return found


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


def _in_brackets(parts: list[str]) -> str:
    told = ", ".join(filter(None, parts))
    return f" ({told})" if told else ""


def evaluate_ranking(
    query_features: NDArray[np.floating],
    query_ids: NDArray[np.int64],
    query_cameras: NDArray[np.int64],
    gallery_features: NDArray[np.floating],
    gallery_ids: NDArray[np.int64],
    gallery_cameras: NDArray[np.int64],
    *,
    protocol: ProtocolName,
    crops: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
) -> RetrievalScores:
    """Rank the gallery for every query by cosine similarity and score the rankings.

        AP = 1/M sum_m m / rank of the m-th match, over the M matches of a query
        CMC-k = share of queries whose first match ranks k or better

    AP is the mean of the precision at each match (as in scikit-learn and torchreid), not the area
    by trapezoids of Market-1501's own kit, which is a little higher. Equal similarities rank in
    gallery order; what a protocol sets aside (`protocols.pairs`) takes no rank. Junk is left out.
    Market-1501's distractors (0000) need no rule: no query has their identity, so they only push
    matches down. A query without a match is in no figure, but counted.

    Args:
        query_features, gallery_features: (Q, D), (G, D) any scale; rows are L2-normalized here.
        query_ids, gallery_ids: (Q,), (G,) integers; -1 junk.
        query_cameras, gallery_cameras: (Q,), (G,) codes in one numbering; -1 unknown.
        protocol: see `protocols.pairs`.
        crops: (Q,) and (G,) codes, alike where a gallery image is the query itself or a copy of
            it; only any-camera looks at them.

    Returns:
        Scores, their parts per query, and what was left out.

    Raises:
        DataError: shapes do not fit, a set is empty, or no query has a match.
        NonFiniteFeaturesError, ZeroFeaturesError: features hold NaN, infinity or a row of zeros.
        ValueError: the protocol is not known, or is any-camera without `crops`.

    Source: Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015.
    """
    own, others = (None, None) if crops is None else crops
    query = _Labelled.of("query", query_features, Labels(query_ids, query_cameras, own))
    of_gallery = Labels(gallery_ids, gallery_cameras, others)
    gallery = _Labelled.of("gallery", gallery_features, of_gallery)
    gallery = gallery.without_junk()
    average_precision, first_hit, ranked = _score_all(query, gallery, protocol)
    judged = np.flatnonzero(first_hit)
    return RetrievalScores(
        protocol=protocol,
        gallery=len(gallery.labels),
        query_row=judged,
        average_precision=average_precision[judged],
        first_hit=first_hit[judged],
        min_ranked=int(ranked[judged].min()),
        without_match=len(query.labels) - len(judged) - query.labels.junk,
        junk=query.labels.junk,
        gallery_junk=of_gallery.junk,
        unknown_cameras=query.labels.unknown_cameras,
        gallery_unknown_cameras=of_gallery.unknown_cameras,
    )


@dataclass(frozen=True)
class _Labelled:
    """A checked set: (N, D) rows of length 1, and what is known of them."""

    unit: NDArray[np.float32]
    labels: Labels

    @classmethod
    def of(cls, name: str, features: NDArray[np.floating], labels: Labels) -> _Labelled:
        """Raises DataError that calls the set by its name."""
        ids, cameras, crops = labels.ids, labels.cameras, labels.crops
        fits = features.ndim == 2 and ids.shape == features.shape[:1] == cameras.shape
        if not fits:
            raise DataError(
                f"{name} features {features.shape}, ids {ids.shape} and cameras {cameras.shape} "
                "must be (N, D), (N,) and (N,)"
            )
        if crops is not None and crops.shape != ids.shape:
            raise DataError(f"{name} names {crops.shape} and ids {ids.shape} must both be (N,)")
        if not len(ids) or (name == "gallery" and (ids == JUNK).all()):
            raise DataError(f"the {name} holds no usable image: add labelled crops to it")
        return cls(_unit(name, features), labels)

    def without_junk(self) -> _Labelled:
        """The images that are not junk."""
        kept = self.labels.ids != JUNK
        return _Labelled(self.unit[kept], self.labels.part(kept))


def _score_all(
    query: _Labelled, gallery: _Labelled, protocol: ProtocolName
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """(Q,) AP, rank of the first match, 0 without one, and images ranked, of each query.

    By blocks of queries. Raises DataError: the sets have other dimensions, or no query has a match.
    """
    if query.unit.shape[1] != gallery.unit.shape[1]:
        raise DataError(
            f"query features have {query.unit.shape[1]} dimensions, gallery features "
            f"{gallery.unit.shape[1]}: extract both with the same model"
        )
    total = len(query.labels)
    average_precision = np.zeros(total)
    first_hit, ranked = np.zeros(total, np.int64), np.zeros(total, np.int64)
    for part in blocks(total, len(gallery.labels)):
        match, aside = pairs(query.labels.part(part), gallery.labels, protocol)
        ranked[part] = (~aside).sum(axis=1)
        average_precision[part], first_hit[part] = _score(
            query.unit[part] @ gallery.unit.T, match, aside
        )
    if not first_hit.any():
        raise no_match(query.labels, gallery.labels, protocol)
    return average_precision, first_hit, ranked


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
    length = lengths(name, features)
    unit = np.empty(features.shape, np.float32)
    np.divide(features, length[:, None], out=unit, casting="same_kind")
    return unit


def lengths(name: str, features: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N,) lengths of the rows of features (N, D), all finite and above 0.

    Raises ZeroFeaturesError that calls the set by its name, NonFiniteFeaturesError.
    """
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise NonFiniteFeaturesError(int(bad[0]), len(bad))
    length = np.sqrt(np.einsum("nd,nd->n", features, features, dtype=np.float64))
    huge = np.flatnonzero(~np.isfinite(length))
    if len(huge):
        raise NonFiniteFeaturesError(int(huge[0]), len(huge))
    zero = np.flatnonzero(length == 0)
    if len(zero):
        raise ZeroFeaturesError(name, int(zero[0]), len(zero))
    found: NDArray[np.float64] = length
    return found
