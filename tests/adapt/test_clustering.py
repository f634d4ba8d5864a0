"""From features to labels as a recipe says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="adapt needs scikit-learn")

from sklearn.metrics import adjusted_rand_score

from adapt.clustering import Clusterer
from adapt.config import Clustering
from adapt.errors import ClusteringError, DataError


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


def test_the_automatic_radius_finds_people() -> None:
    features, cameras, truth = site(people=20, each=16)
    clusterer = Clusterer(Clustering(algorithm="dbscan"), identities_per_batch=4, seed=0)
    found = clusterer(features, cameras)
    assert adjusted_rand_score(truth, found.labels) > 0.95
    assert clusterer.radius is not None
    assert found.rule == f"dbscan eps={clusterer.radius:.3f} min_samples=4 (best silhouette)"
    assert {"neighbours", "encoding", "jaccard", "radius", "clusters"} == set(
        clusterer.stages.seconds
    )


def test_a_doubt_about_the_automatic_radius_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    features, cameras, _ = site(people=40, each=5, shift=0.0)
    with caplog.at_level("WARNING", "resight"):
        cluster(features, cameras, algorithm="dbscan")
    assert "in doubt: clusters of 5 images are small beside k1 = 20" in caplog.text


@pytest.mark.parametrize(
    ("radius", "rule"), [("pairs", "8 pairs per image"), ("rho", "rho 0.05"), (0.5, "given")]
)
def test_the_rule_of_the_radius_is_reported(radius: float | str, rule: str) -> None:
    features, cameras, truth = site(people=20, each=16)
    found = cluster(
        features, cameras, algorithm="dbscan", radius=radius, pairs_per_image=8.0, rho=0.05
    )
    assert found.rule.endswith(f"({rule})")
    assert adjusted_rand_score(truth, found.labels) > 0.8


def test_hdbscan_finds_people() -> None:
    features, cameras, truth = site(people=20, each=16, shift=0.0)
    found = cluster(features, cameras, algorithm="hdbscan", min_samples=6, min_cluster_size=10)
    assert adjusted_rand_score(truth, found.labels) > 0.95
    assert found.rule == "hdbscan min_samples=6 min_cluster_size=10"


@pytest.mark.parametrize("algorithm", ["dbscan", "hdbscan"])
def test_the_form_for_a_device_finds_the_same(algorithm: str) -> None:
    features, cameras, _ = site(people=20, each=16)
    settings = Clustering(algorithm=algorithm)
    found = [
        Clusterer(settings, identities_per_batch=4, seed=0, device=device)(features, cameras)
        for device in (None, torch.device("cpu"))
    ]
    np.testing.assert_array_equal(found[0].labels, found[1].labels)
    assert found[0].clusters >= 20


@pytest.mark.parametrize(("shift", "centres"), [(3.0, True), (0.0, False)])
def test_automatic_centring_follows_the_cameras(
    shift: float, centres: bool, caplog: pytest.LogCaptureFixture
) -> None:
    features, cameras, _ = site(people=20, each=16, shift=shift)
    settings = {"algorithm": "dbscan", "radius": 0.5}
    with caplog.at_level("INFO", "resight"):
        found = cluster(features, cameras, camera_centering="auto", **settings)
    given = cluster(features, cameras, camera_centering=centres, **settings)
    other = cluster(features, cameras, camera_centering=not centres, **settings)
    np.testing.assert_array_equal(found.labels, given.labels)
    assert ("centred per camera" if centres else "as extracted") in caplog.text
    if centres:
        assert (found.labels != other.labels).any()


@pytest.mark.parametrize("algorithm", ["kmeans", "dbscan", "hdbscan"])
def test_automatic_centring_needs_crops_of_two_cameras(
    algorithm: str, caplog: pytest.LogCaptureFixture
) -> None:
    features, _, _ = site(people=20, each=16, shift=1.0)
    few = np.where(np.arange(320) < 31, 1, 0)  # camera 1 has 31 crops
    with caplog.at_level("INFO", "resight"):
        for seen in (np.zeros(320, np.int64), few):
            cluster(features, seen, algorithm=algorithm, camera_centering="auto")
        assert "camera bias" not in caplog.text
        enough = np.where(np.arange(320) < 32, 1, 0)
        cluster(features, enough, algorithm=algorithm, camera_centering="auto")
    assert "camera bias" in caplog.text


def test_a_radius_that_reaches_almost_all_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    features, cameras, _ = site(people=20, each=16)
    with caplog.at_level("WARNING", "resight"):
        found = cluster(features, cameras, algorithm="dbscan", radius=0.9999999)
    assert found.rule.startswith("dbscan eps=0.950")
    assert "cut to 0.95" in caplog.text


@pytest.mark.parametrize("algorithm", ["kmeans", "dbscan", "hdbscan"])
def test_unusable_input_is_refused(algorithm: str) -> None:
    features, cameras, _ = site()
    with pytest.raises(DataError, match="79 cameras do not fit 80 features"):
        cluster(features, cameras[:-1], algorithm=algorithm)
    for empty in (True, False, "auto"):
        with pytest.raises((DataError, ClusteringError), match=r"add\s+crops"):
            cluster(
                features[:0],
                cameras[:0],
                algorithm=algorithm,
                camera_centering=empty,
            )


@pytest.mark.parametrize("centering", [True, False, "auto"])
@pytest.mark.parametrize("algorithm", ["kmeans", "dbscan", "hdbscan"])
def test_the_row_that_is_not_finite_is_named(algorithm: str, centering: object) -> None:
    features, cameras, _ = site()
    features[37, 2] = np.nan
    with pytest.raises(DataError, match=r"1 feature rows .*row 37"):
        cluster(features, cameras, algorithm=algorithm, camera_centering=centering)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("algorithm", ["kmeans", "dbscan", "hdbscan"])
def test_a_handful_of_images_is_refused(algorithm: str, images: int) -> None:
    features, cameras, _ = site()
    with pytest.raises(ClusteringError, match=r"add\s+crops"):
        cluster(features[:images], cameras[:images], algorithm=algorithm)
    if algorithm == "dbscan":  # with a radius there is an answer
        found = cluster(features[:images], cameras[:images], algorithm="dbscan", radius=0.5)
        assert found.labels.tolist() == [-1] * images
