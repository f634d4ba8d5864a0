"""How far colors alone get at both sites; the table of docs/synthetic.md (`pytest -s`)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from adapt.data.catalog.folders import read_market
from adapt.evaluation.metrics import evaluate_ranking
from adapt.synthetic import SITE_A, SITE_B, SiteSpec, render_site
from models.image import decode

BINS = [12, 6, 6]
BOUNDS = {
    (1, "whole"): 0.12,
    (6, "whole"): 0.18,
    (1, "cut"): 0.35,
    (6, "cut"): 0.50,
    (1, "cut, light evened"): 0.60,
    (6, "cut, light evened"): 0.75,
}
"""Highest mAP that colors alone may reach, by stripes and what is done to a crop before;
docs/synthetic.md has a network's beside it."""

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Crops:
    """Test crops of one site; the first `queries` are the queries."""

    images: list[NDArray[np.uint8]]
    persons: NDArray[np.int64]
    cameras: NDArray[np.int64]
    queries: int


def without_margins(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle of a crop, where hardly anything but the person is."""
    rows, columns = image.shape[0] // 16, image.shape[1] // 4
    return image[rows:-rows, columns:-columns]


def light_evened(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Gray world: each channel scaled to the same mean."""
    mean = image.reshape(-1, 3).mean(axis=0)
    return np.clip(image * (110 / np.maximum(mean, 1)), 0, 255).astype(np.uint8)


PREPARE = {
    "whole": lambda image: image,
    "cut": without_margins,
    "cut, light evened": lambda image: light_evened(without_margins(image)),
}


def histogram(image: NDArray[np.uint8], stripes: int) -> Features:
    """Square-rooted HSV histograms of horizontal stripes, L2-normalized (Hellinger similarity)."""
    hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV)
    parts = [
        cv2.calcHist([stripe], [0, 1, 2], None, BINS, [0, 180, 0, 256, 0, 256]).ravel()
        for stripe in np.array_split(hsv, stripes)
    ]
    vector = np.sqrt(np.concatenate(parts))
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def camera_centered(features: Features, cameras: NDArray[np.int64]) -> Features:
    centered = features.copy()
    for camera in np.unique(cameras):
        centered[cameras == camera] -= features[cameras == camera].mean(axis=0)
    return np.asarray(centered / np.linalg.norm(centered, axis=1, keepdims=True), np.float32)


@pytest.fixture(scope="module", params=[SITE_A, SITE_B], ids=["A", "B"])
def crops(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Crops:
    """Test people of a site of this kind; its training identities are not looked at here."""
    spec: SiteSpec = replace(request.param, train_identities=1)
    root = render_site(spec, tmp_path_factory.mktemp("difficulty") / "site").root
    query, gallery = read_market(root, ["query"]), read_market(root, ["gallery"])
    assert query.cameras == gallery.cameras
    return Crops(
        [decode(s.path.read_bytes()) for part in (query, gallery) for s in part.samples],
        np.concatenate([query.persons, gallery.persons]),
        np.concatenate([query.camera_codes, gallery.camera_codes]),
        len(query),
    )


@pytest.fixture(scope="module")
def histograms(crops: Crops) -> Callable[[int, str], Features]:
    """Of all crops, by stripes and what is done to a crop before."""

    @functools.cache
    def found(stripes: int, crop: str) -> Features:
        return np.stack([histogram(PREPARE[crop](image), stripes) for image in crops.images])

    return found


@pytest.mark.slow
@pytest.mark.parametrize("centered", [False, True], ids=["plain", "centered"])
@pytest.mark.parametrize("crop", PREPARE)
@pytest.mark.parametrize("stripes", [1, 6])
def test_color_histograms_do_not_solve_a_site(
    crops: Crops,
    histograms: Callable[[int, str], Features],
    stripes: int,
    crop: str,
    centered: bool,
) -> None:
    features = histograms(stripes, crop)
    if centered:
        features = camera_centered(features, crops.cameras)
    n = crops.queries
    scores = evaluate_ranking(
        features[:n],
        crops.persons[:n],
        crops.cameras[:n],
        features[n:],
        crops.persons[n:],
        crops.cameras[n:],
        protocol="market",
    )
    print(f" mAP {scores.mAP:.3f} CMC-1 {scores.cmc(1):.3f}")
    chance = 1 / len(np.unique(crops.persons))
    assert scores.queries == n
    assert scores.mAP < BOUNDS[stripes, crop]
    # The people do differ in color: whoever knows where they are finds more than chance.
    assert not (crop == "cut" and centered) or scores.mAP > 4 * chance
