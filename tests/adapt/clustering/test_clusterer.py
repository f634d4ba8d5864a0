"""From features to labels as a recipe says."""

from __future__ import annotations

import hdbscan
import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="adapt needs scikit-learn")

from sklearn.metrics import adjusted_rand_score

from adapt.clustering.clusterer import Clusterer
from adapt.clustering.graph.jaccard import jaccard_distance
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
    centered = cluster(features, cameras, camera_centering=True, **settings)
    plain = cluster(features, cameras, camera_centering=False, **settings)
    assert adjusted_rand_score(truth, centered.labels) > 0.95
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
    assert {"neighbors", "encoding", "jaccard", "radius", "clusters"} == set(
        clusterer.stages.seconds
    )


def test_a_doubt_about_the_automatic_radius_is_a_warning_once() -> None:
    features, cameras, _ = site(people=40, each=5, shift=0.0)
    clusterer = Clusterer(Clustering(algorithm="dbscan"), identities_per_batch=4, seed=0)
    (warning,) = clusterer(features, cameras).warnings
    assert "in doubt: clusters of 5 images are small beside k1 = 20" in warning
    assert clusterer(features, cameras).warnings == (), "the radius is kept"


def test_the_automatic_radius_knows_k1() -> None:
    features, cameras, _ = site(people=40, each=5, shift=0.0)
    near = cluster(features, cameras, algorithm="dbscan", k1=14)
    assert near.warnings == ()  # three times 5 images are more
    (warning,) = cluster(features, cameras, algorithm="dbscan", k1=16).warnings
    assert "in doubt: clusters of 5 images are small beside k1 = 16" in warning


def test_the_automatic_radius_knows_min_samples() -> None:
    features, cameras, truth = site(people=20, each=8, shift=0.0)
    settings = {"algorithm": "dbscan", "k1": 8, "k2": 3}
    found = cluster(features, cameras, min_samples=8, **settings)
    assert adjusted_rand_score(truth, found.labels) > 0.95
    with pytest.raises(ClusteringError, match="no radius separates"):
        cluster(features, cameras, min_samples=9, **settings)


@pytest.mark.parametrize("device", [None, torch.device("cpu")])
def test_images_at_the_radius_share_a_cluster_whatever_rounding_says(
    device: torch.device | None,
) -> None:
    # 79 copies of an image, and three pairs beside it. Copies have only copies as k-reciprocal
    # neighbors, 1/79 of each, and each of a pair has the two of it; query expansion over six
    # gives all of them at least 4/6 of the copies, and no two pairs anything else to share: they
    # are at 1/2. The sum of 79 float32 numbers 4/474 is below 2/3, so rounding says 0.50000006.
    axes = np.eye(7, dtype=np.float32)
    singles = axes[0] + 0.1 * axes[1:4]
    features = np.concatenate([np.tile(axes[0], (79, 1)), singles, singles + 0.02 * axes[4:]])
    near = jaccard_distance(features, k1=78, k2=6, variant="classic", max_distance=0.51)
    assert 0.5 < near.max() < 0.5 + 1e-6
    for radius, wanted in ((0.5, [0] * 85), (0.499, [0] * 79 + [-1] * 6)):
        settings = Clustering(algorithm="dbscan", radius=radius, k1=78, camera_centering=False)
        clusterer = Clusterer(settings, identities_per_batch=4, seed=0, device=device)
        assert clusterer(features, np.zeros(85, np.int64)).labels.tolist() == wanted


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


@pytest.mark.parametrize("seed", range(3))
def test_hdbscan_finds_what_the_library_finds_on_the_dense_matrix(seed: int) -> None:
    # With some ten images a person and k1 = 20, many that belong together are beyond 0.7.
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(30, 16)).repeat(10, axis=0) + 0.7 * rng.normal(size=(300, 16))
    whole = jaccard_distance(features, k1=20, k2=6, variant="classic").tocoo()
    dense = np.ones(whole.shape)
    dense[whole.row, whole.col] = whole.data
    library = hdbscan.HDBSCAN(metric="precomputed", min_samples=8, min_cluster_size=5)
    wanted = library.fit_predict(dense)
    found = cluster(
        features.astype(np.float32),
        np.zeros(300, np.int64),
        algorithm="hdbscan",
        camera_centering=False,
        min_samples=8,
        min_cluster_size=5,
    )
    np.testing.assert_array_equal(found.labels == -1, wanted == -1)
    assert adjusted_rand_score(wanted, found.labels) == 1
    assert found.clusters > 10


@pytest.mark.parametrize("algorithm", ["dbscan", "hdbscan"])
def test_the_device_is_used(algorithm: str) -> None:
    features, cameras, _ = site()
    absent = torch.device("vulkan")  # known by name, but in no build of torch for servers
    clusterer = Clusterer(
        Clustering(algorithm=algorithm), identities_per_batch=4, seed=0, device=absent
    )
    with pytest.raises(RuntimeError, match="vulkan"):
        clusterer(features, cameras)


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


@pytest.mark.parametrize(("shift", "centers"), [(3.0, True), (0.0, False)])
def test_automatic_centering_follows_the_cameras(
    shift: float, centers: bool, caplog: pytest.LogCaptureFixture
) -> None:
    features, cameras, _ = site(people=20, each=16, shift=shift)
    settings = {"algorithm": "dbscan", "radius": 0.5}
    with caplog.at_level("INFO", "resight"):
        found = cluster(features, cameras, camera_centering="auto", **settings)
    given = cluster(features, cameras, camera_centering=centers, **settings)
    other = cluster(features, cameras, camera_centering=not centers, **settings)
    np.testing.assert_array_equal(found.labels, given.labels)
    assert ("centered per camera" if centers else "as extracted") in caplog.text
    if centers:
        assert (found.labels != other.labels).any()


@pytest.mark.parametrize(
    ("seen", "decision"), [(9, "bias 0.18: centered per camera"), (8, "bias 0.07: as extracted")]
)
def test_automatic_centering_on_both_sides_of_its_limit(
    seen: int, decision: str, caplog: pytest.LogCaptureFixture
) -> None:
    # One camera saw 9 of a person's 11 images, the other 2: the ten neighbors share the camera of
    # (9 * 0.8 + 2 * 0.1) / 11 = 0.67, by chance 43 / 87 = 0.49; with 8 and 3 of 0.56.
    person = np.repeat(np.arange(8), 11)
    cameras = (person + (np.arange(88) % 11 >= seen)) % 2
    noise = np.random.default_rng(0).normal(size=(88, 8))
    features = (np.eye(8)[person] + 0.01 * noise).astype(np.float32)
    with caplog.at_level("INFO", "resight"):
        cluster(features, cameras, camera_centering="auto", algorithm="dbscan", radius=0.5)
    assert decision in caplog.text


def test_automatic_centering_looks_beyond_a_burst(caplog: pytest.LogCaptureFixture) -> None:
    # Four bursts of three images of each person, two by each camera: the two nearest of an image
    # are of its own camera, and of the ten nearest at most half are.
    burst = np.repeat(np.arange(32), 3)
    rng = np.random.default_rng(0)
    features = np.eye(8).repeat(12, axis=0) + 0.05 * rng.normal(size=(32, 8))[burst]
    features += 1e-4 * rng.normal(size=features.shape)
    with caplog.at_level("INFO", "resight"):
        cluster(
            features.astype(np.float32),
            burst % 2,
            camera_centering="auto",
            algorithm="dbscan",
            radius=0.5,
        )
    assert "as extracted" in caplog.text


@pytest.mark.parametrize("algorithm", ["kmeans", "dbscan", "hdbscan"])
def test_automatic_centering_needs_crops_of_two_cameras(
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


ALMOST_ALL = [
    ({"radius": 0.9999999}, "it"),
    ({"radius": "pairs", "pairs_per_image": 150}, "pairs_per_image"),
    ({"radius": "rho", "rho": 0.9}, "rho"),
]


@pytest.mark.parametrize(("settings", "lower"), ALMOST_ALL)
def test_a_radius_that_reaches_almost_all_is_cut_with_a_warning(
    settings: dict[str, float | str], lower: str
) -> None:
    features, cameras, _ = site(people=40, each=8)
    found = cluster(features, cameras, algorithm="dbscan", **settings)
    assert found.rule.startswith("dbscan eps=0.950")
    assert found.warnings == (
        f"radius cut to 0.95: almost all pairs share no neighbors; lower {lower}",
    )
    assert not cluster(features, cameras, algorithm="dbscan", radius=0.95).warnings


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
    with pytest.raises(DataError, match=r"1 feature row .*row 37"):
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
