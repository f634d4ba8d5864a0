"""Serve a bundle, enroll labelled crops over gRPC, compare served and evaluated rankings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapt.evaluation.scoring import LabelledCrops, bundle_embedder
from adapt.types import UNLABELLED
from cli.local_server import local_server
from models.bundle import Bundle
from service.client import CallFailedError, ResightClient
from service.types import NewSighting, SightingFilter

TIE = 1e-6
"""Scores closer than this are equal but for float32 rounding."""


@dataclass(frozen=True)
class ServedRanking:
    """searches: cross-camera searches made. same: with the very ranking of the evaluation, every
    crop of the other cameras included. ties: of the others, those where only crops whose evaluated
    scores differ by less than `TIE` changed places. mAP: of the served rankings of the searches
    whose person is in another camera; nan without any. without_match: the other searches. junk:
    searches for nobody known, which are in neither.
    largest_score_difference: of any served score from the evaluated one.
    """

    enrolled: int
    searches: int
    same: int
    ties: int
    mAP: float  # noqa: N815 - the field's name for it
    largest_score_difference: float
    without_match: int = 0
    junk: int = 0


def compare_served(bundle: Path, data_dir: Path, labelled: LabelledCrops) -> ServedRanking:
    """Enroll the gallery, search every query in the other cameras to the last match."""
    embed = bundle_embedder(Bundle.open(bundle))
    query, gallery = labelled.query.crops, labelled.gallery.crops
    query_vectors = embed(labelled.query.images)
    gallery_vectors = embed(labelled.gallery.images)
    gallery_cameras = np.array([gallery.cameras[c] for c in gallery.camera_codes])
    same, ties, difference = 0, 0, 0.0
    precisions: list[float | None] = []
    with local_server(bundle, data_dir) as address, ResightClient(address) as client:
        client.create_site("bench")
        new = (
            NewSighting(s.path.read_bytes(), camera=str(gallery_cameras[row]), id=f"g{row:06d}")
            for row, s in enumerate(gallery.samples)
        )
        results = list(client.enroll("bench", new))
        failed = [r for r in results if isinstance(r, CallFailedError)]
        if failed:
            raise failed[0]
        for row, sample in enumerate(query.samples):
            camera = query.cameras[sample.camera]
            rows = np.flatnonzero(gallery_cameras != camera)
            score = gallery_vectors[rows] @ query_vectors[row]
            expected = rows[np.argsort(-score, kind="stable")]
            answer = client.search(
                "bench",
                sample.path.read_bytes(),
                limit=len(rows),
                wanted=SightingFilter(exclude_cameras=(camera,)),
            )
            found = np.array([int(match.sighting.id[1:]) for match in answer.matches])
            if np.array_equal(found, expected):
                same += 1
            elif np.array_equal(np.sort(found), np.sort(expected)):
                rescored = gallery_vectors[found] @ query_vectors[row]
                ties += bool((np.diff(rescored) < TIE).all())
            served = np.array([match.score for match in answer.matches])
            apart = np.abs(served - np.sort(score)[::-1])
            difference = max(difference, float(apart.max(initial=0.0)))
            matches = int((gallery.persons[rows] == sample.person).sum())
            if sample.person != UNLABELLED:
                precisions.append(
                    average_precision(gallery.persons[found] == sample.person, matches)
                )
    judged = [each for each in precisions if each is not None]
    return ServedRanking(
        enrolled=len(results),
        searches=len(query),
        same=same,
        ties=ties,
        mAP=float(np.mean(judged)) if judged else math.nan,
        largest_score_difference=difference,
        without_match=len(precisions) - len(judged),
        junk=len(query) - len(precisions),
    )


def average_precision(right: NDArray[np.bool_], matches: int) -> float | None:
    """Mean over all matches of the precision at each; 0 for one that was not answered.

    right: (N,) which answers are matches, best first. matches: how many there are in all; None
    without any.
    """
    ranks = np.flatnonzero(right) + 1
    return float((np.arange(1, len(ranks) + 1) / ranks).sum()) / matches if matches else None
