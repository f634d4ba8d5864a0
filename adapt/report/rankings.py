"""What models answer to the same queries, with and without labels.

Shapes: N crops, D embedding dimensions, Q queries, G gallery.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapt.data.decoding.decode import DecodedCrops
from adapt.evaluation.scoring import LabelledCrops
from adapt.report.pictures import crop_uri


@dataclass(frozen=True)
class Shown:
    """A crop in a rank list.

    image: JPEG as a data URI. caption: below it. right: same person as the query; None for the
    query itself, and where nobody knows.
    """

    image: str
    caption: str
    right: bool | None = None


@dataclass(frozen=True)
class RankList:
    """The first answers of one model to one query."""

    model: str
    answers: tuple[Shown, ...]


@dataclass(frozen=True)
class Comparison:
    """One query and what each model answers."""

    query: Shown
    lists: tuple[RankList, ...]


def compare_rankings(
    labelled: LabelledCrops,
    embeddings: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]],
    *,
    queries: int,
    answers: int,
) -> list[Comparison]:
    """Show the first answers of several models to the same queries, under protocol `market`.

    embeddings: model -> (query (Q, D), gallery (G, D)) unit vectors. queries: how many to show,
    evenly spread over the set, so that nobody picked them. answers: how many of each.
    """
    q, g = labelled.query.crops, labelled.gallery.crops
    g_persons = g.persons
    g_cameras = np.array([g.cameras[c] for c in g.camera_codes])
    comparisons = []
    for row in np.unique(np.linspace(0, len(q) - 1, queries).round().astype(int)):
        sample = q.samples[row]
        camera = q.cameras[sample.camera]
        allowed = (g_persons >= 0) & ~((g_persons == sample.person) & (g_cameras == camera))
        some = (g_persons >= 0) & (g_persons == sample.person) & allowed
        told = f"query {camera}" if some.any() else f"query {camera}, no match"
        lists = []
        for model, (query, gallery) in embeddings.items():
            score = gallery @ query[row]
            shown = tuple(
                Shown(
                    crop_uri(labelled.gallery.images[i]),
                    f"{g_cameras[i]} {score[i]:.2f}",
                    bool(g_persons[i] == sample.person),
                )
                for i in best_rows(score, allowed, answers)
            )
            lists.append(RankList(model, shown))
        shown_query = Shown(crop_uri(labelled.query.images[row]), told)
        comparisons.append(Comparison(shown_query, tuple(lists)))
    return comparisons


def compare_answers(
    data: DecodedCrops,
    embeddings: Mapping[str, NDArray[np.float32]],
    *,
    queries: int,
    answers: int,
    seed: int,
) -> list[Comparison]:
    """Show where several models would say that the person of a crop was seen elsewhere.

    No identity is known or shown. Answers come from other cameras than the query's, since crops
    of the same passage come first otherwise and tell nothing; of one camera, from all others
    of its crops.
    embeddings: model -> (N, D) unit vectors of all crops. queries, answers: how many to show.
    seed: of the choice of queries (`spread_queries`).
    """
    codes, names = data.crops.camera_codes, data.crops.cameras
    comparisons = []
    for row in spread_queries(codes, queries, seed):
        others = codes != codes[row]
        allowed = others if others.any() else np.arange(len(codes)) != row
        lists = []
        for model, features in embeddings.items():
            score = features @ features[row]
            shown = tuple(
                Shown(crop_uri(data.images[i]), f"{names[codes[i]]} {score[i]:.2f}")
                for i in best_rows(score, allowed, answers)
            )
            lists.append(RankList(model, shown))
        query = Shown(crop_uri(data.images[row]), f"query {names[codes[row]]}")
        comparisons.append(Comparison(query, tuple(lists)))
    return comparisons


def best_rows(score: NDArray[np.float32], allowed: NDArray[np.bool_], count: int) -> list[int]:
    """Rows of the `count` highest scores among the allowed ones, best first; ties by row.

    score: (N,) float32. allowed: (N,) bool. Gives fewer where fewer are allowed.
    """
    rows = np.flatnonzero(allowed)
    return [int(i) for i in rows[np.argsort(-score[rows], kind="stable")][:count]]


def spread_queries(cameras: NDArray[np.int64], count: int, seed: int) -> list[int]:
    """Draw crops by seed, from each camera in turn, so that nobody picked them.

    cameras: (N,) codes. Returns up to `count` different rows; cameras in an order drawn, too.
    """
    rng = np.random.default_rng(seed)
    queues = [
        list(rng.permutation(np.flatnonzero(cameras == code)))
        for code in rng.permutation(np.unique(cameras))
    ]
    rows: list[int] = []
    while len(rows) < count and any(queues):
        for queue in queues:
            if queue and len(rows) < count:
                rows.append(int(queue.pop()))
    return rows
