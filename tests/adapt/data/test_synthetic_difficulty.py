"""How far colours alone get at site B, as stated in docs/synthetic.md (`pytest -s` prints it)."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from adapt.data.folders import read_market
from adapt.data.synthetic import SITE_B, render_site
from adapt.evaluate.metrics import evaluate_ranking
from adapt.types import CropSet
from models.image import decode

BINS = [12, 6, 6]


def histogram(image: NDArray[np.uint8], stripes: int) -> NDArray[np.float32]:
    """Square-rooted HSV histograms of horizontal stripes, L2-normalised (Hellinger similarity)."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    parts = [
        cv2.calcHist([stripe], [0, 1, 2], None, BINS, [0, 180, 0, 256, 0, 256]).ravel()
        for stripe in np.array_split(hsv, stripes)
    ]
    vector = np.sqrt(np.concatenate(parts))
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def describe(listing: CropSet, stripes: int) -> NDArray[np.float32]:
    return np.stack(
        [histogram(decode(sample.path.read_bytes()), stripes) for sample in listing.samples]
    )


def camera_centred(features: NDArray[np.float32], cameras: NDArray[np.int64]) -> None:
    for camera in np.unique(cameras):
        features[cameras == camera] -= features[cameras == camera].mean(axis=0)
    features /= np.linalg.norm(features, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> tuple[CropSet, CropSet]:
    """60 people of a site like B; its training identities are not looked at here."""
    spec = replace(SITE_B, train_identities=1)
    root = render_site(spec, tmp_path_factory.mktemp("difficulty") / "site").root
    return read_market(root, ["query"]), read_market(root, ["gallery"])


@pytest.mark.parametrize("centred", [False, True], ids=["plain", "camera-centred"])
@pytest.mark.parametrize("stripes", [1, 6])
def test_colour_histograms_do_not_solve_site_b(
    crops: tuple[CropSet, CropSet], stripes: int, centred: bool
) -> None:
    query, gallery = crops
    features = np.concatenate([describe(query, stripes), describe(gallery, stripes)])
    if centred:
        camera_centred(features, np.concatenate([query.camera_codes, gallery.camera_codes]))
    scores = evaluate_ranking(
        features[: len(query)],
        query.persons,
        query.camera_codes,
        features[len(query) :],
        gallery.persons,
        gallery.camera_codes,
        protocol="market",
    )
    print(f"{stripes} stripes, centred {centred}: mAP {scores.mAP:.3f} CMC-1 {scores.cmc(1):.3f}")
    chance = 1 / len(np.unique(query.persons))
    assert scores.mAP < 0.25
    assert scores.queries == len(query)
    assert not centred or scores.mAP > chance
