"""From features to labels as a recipe says."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="adapt needs scikit-learn")

from sklearn.metrics import adjusted_rand_score

from adapt.clustering import Clusterer
from adapt.config import Clustering


def site(people: int = 8, each: int = 10, shift: float = 3.0, seed: int = 0):  # type: ignore[no-untyped-def]
    """People seen by two cameras; the second camera shifts every feature by one direction."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(people), each)
    cameras = np.arange(len(truth)) % 2
    features = rng.normal(size=(people, 32))[truth] + 0.1 * rng.normal(size=(len(truth), 32))
    features += shift * cameras[:, None] * rng.normal(size=32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features.astype(np.float32), cameras, truth


def cluster(features, cameras, **settings):  # type: ignore[no-untyped-def]
    return Clusterer(Clustering(**settings), identities_per_batch=4, seed=0)(features, cameras)


@pytest.mark.parametrize(
    "settings",
    [
        {"algorithm": "kmeans", "clusters": 8},
        {"algorithm": "dbscan", "radius": 0.5, "k1": 8, "k2": 3},
    ],
)
def test_centering_finds_people_where_cameras_differ(settings: dict[str, object]) -> None:
    features, cameras, truth = site()
    centred = cluster(features, cameras, camera_centering=True, **settings)
    plain = cluster(features, cameras, camera_centering=False, **settings)
    assert adjusted_rand_score(truth, centred.labels) > 0.95
    assert adjusted_rand_score(truth, plain.labels) < 0.7


def test_dbscan_keeps_the_radius_of_its_first_call() -> None:
    features, cameras, _ = site()
    settings = Clustering(algorithm="dbscan", radius="pairs", pairs_per_image=4.0, k1=8, k2=3)
    clusterer = Clusterer(settings, identities_per_batch=4, seed=0)
    clusterer(features, cameras)
    first = clusterer.radius
    spread, other_cameras, _ = site(shift=0.0, seed=9)
    clusterer(spread, other_cameras)
    assert first is not None
    assert clusterer.radius == first


def test_a_number_is_taken_as_the_radius() -> None:
    features, cameras, _ = site()
    clusterer = Clusterer(
        Clustering(algorithm="dbscan", radius=0.4, k1=8, k2=3), identities_per_batch=4, seed=0
    )
    assert "0.4" in clusterer(features, cameras).rule
    assert clusterer.radius == 0.4


def test_auto_clusters_follow_the_number_of_crops() -> None:
    features, cameras, _ = site(people=10, each=16)
    assert cluster(features, cameras, clusters="auto").clusters == 8
