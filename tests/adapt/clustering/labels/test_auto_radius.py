"""The automatic radius: near the best one that labels could pick, and its doubts and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.metrics import adjusted_rand_score

from adapt.clustering.graph.jaccard import JaccardGraph
from adapt.clustering.graph.radius import CUT
from adapt.clustering.graph.rows import StoredGraph
from adapt.clustering.labels.auto_radius import RADII, RadiusChoice, auto_radius
from adapt.clustering.labels.dbscan import cluster_dbscan
from adapt.errors import ClusteringError


def people(
    each: int, count: int, noise: float, dimensions: int = 64
) -> tuple[JaccardGraph, NDArray[np.int64]]:
    """noise: length of what changes between images of a person, whose own vector has length 1."""
    rng = np.random.default_rng(each)
    truth = np.repeat(np.arange(count), each)
    own = rng.normal(size=(count, dimensions))[truth]
    features = own + noise * rng.normal(size=(len(truth), dimensions))
    return JaccardGraph(features, k1=20, k2=6, variant="classic"), truth


def agreement(graph: JaccardGraph, truth: NDArray[np.int64], radius: float) -> float:
    """Adjusted Rand index; every outlier is by itself."""
    labels = cluster_dbscan(graph.distances(CUT), radius, 4).labels
    alone = labels == -1
    labels[alone] = len(labels) + np.arange(alone.sum())
    return float(adjusted_rand_score(truth, labels))


def choose(graph: JaccardGraph | StoredGraph) -> RadiusChoice:
    return auto_radius(graph, min_samples=4, neighbors=20)


@pytest.mark.slow
@pytest.mark.parametrize(("each", "count"), [(8, 60), (17, 35), (40, 15)])
@pytest.mark.parametrize("noise", [0.2, 0.5, 0.8, 1.1])
def test_close_to_the_best_radius_of_a_sweep(each: int, count: int, noise: float) -> None:
    graph, truth = people(each, count, noise)
    choice = choose(graph)
    best = max(agreement(graph, truth, r) for r in np.arange(0.05, CUT, 0.02))
    assert best > 0.8
    assert agreement(graph, truth, choice.radius) >= best - 0.05
    assert choice.doubts == ()


def test_the_choice() -> None:
    graph, _ = people(17, 35, 0.8)
    choice = choose(graph)
    assert choice.radius in RADII
    assert len(choice.silhouettes) == len(RADII)
    at = choice.silhouettes[int(np.flatnonzero(choice.radius == RADII)[0])]
    assert at >= 0.85 * max(choice.silhouettes)


def blocks(
    sizes: list[int], inside: float, groups: list[list[int]], between: float | list[float]
) -> StoredGraph:
    """People at `inside` from themselves; the people of a group at `between` from each other.

    between: of all groups, or of each.
    """
    person = np.repeat(np.arange(len(sizes)), sizes)
    group = np.full(len(sizes), -1)
    for g, members in enumerate(groups):
        group[members] = g
    together = (group[person][:, None] == group[person]) & (group[person] >= 0)
    apart = np.broadcast_to(between, max(len(groups), 1))
    dense = np.where(together, apart[group[person]], 1.0)
    dense[person[:, None] == person] = inside
    np.fill_diagonal(dense, 0)
    row, column = np.nonzero(dense < 1)
    return StoredGraph(
        csr_array((dense[row, column].astype(np.float32), (row, column)), dense.shape)
    )


def test_the_smallest_radius_that_holds_people_together() -> None:
    choice = choose(blocks([12] * 6, 0.31, [], 1.0))
    assert choice.radius == RADII[RADII > 0.31][0]
    np.testing.assert_allclose(choice.silhouettes, np.where(RADII > 0.31, 0.69, 0), atol=1e-6)
    assert choice.doubts == ()


def test_people_who_look_alike_are_not_merged_and_leave_a_doubt() -> None:
    # Pairs of people at 0.51 from each other: alone 1 - 0.21 / 0.51 = 0.59, in pairs 0.63.
    alike = choose(blocks([12] * 6, 0.21, [[0, 1], [2, 3], [4, 5]], 0.51))
    assert 0.21 < alike.radius < 0.51
    assert max(alike.silhouettes) == alike.silhouettes[-1]
    (doubt,) = alike.doubts
    assert "larger clusters (3 instead of 6) would be as tight" in doubt
    # At 0.41 the two of a pair are rather two views of one person: alone 0.49, in pairs 0.69.
    views = choose(blocks([12] * 6, 0.21, [[0, 1], [2, 3], [4, 5]], 0.41))
    assert views.radius > 0.41
    assert views.doubts == ()
    # Where people are as far from themselves, nothing tells the two of a pair apart.
    same = choose(blocks([12] * 6, 0.46, [[0, 1], [2, 3], [4, 5]], 0.51))
    assert same.radius > 0.51


def test_one_pair_of_six_people_is_not_merged() -> None:
    # The pair alone 1 - 0.21 / 0.51 = 0.59, merged 0.63; the others 0.79. Adjusted Rand index of
    # five clusters with six: (396 - 84) / (468 - 84) = 0.81.
    choice = choose(blocks([12] * 6, 0.21, [[0, 1]], 0.51))
    assert choice.radius == RADII[RADII > 0.21][0]
    assert max(choice.silhouettes) == choice.silhouettes[-1]
    (doubt,) = choice.doubts
    assert "larger clusters (5 instead of 6) would be as tight" in doubt


def test_people_are_not_merged_pair_by_pair() -> None:
    # Of 36 people two pairs are alike, one at 0.41 and one at 0.51: each merge raises the
    # silhouette. Adjusted Rand index with all apart: 0.967 after the first merge, 0.936 after the
    # second; of the second with the first 0.969.
    choice = choose(blocks([6] * 36, 0.21, [[0, 1], [2, 3]], [0.41, 0.51]))
    assert choice.radius == RADII[RADII > 0.41][0]
    assert max(choice.silhouettes) == choice.silhouettes[-1]


def two_loose(each: int, distance: float) -> StoredGraph:
    """Six people; two images of each are at `distance` from the others, all others at 0.2."""
    person = np.repeat(np.arange(6), each)
    loose = np.tile(np.arange(each) >= each - 2, 6)
    dense = np.where(person[:, None] == person, 0.2, 1.0)
    dense[(loose[:, None] | loose) & (person[:, None] == person)] = distance
    np.fill_diagonal(dense, 0)
    row, column = np.nonzero(dense < 1)
    return StoredGraph(csr_array((dense[row, column], (row, column)), dense.shape))


def test_a_larger_radius_that_only_adds_images_is_taken() -> None:
    # Without the two of 18 the silhouette is 0.71, more than 85 % of the best, 0.79.
    choice = choose(two_loose(18, 0.26))
    assert choice.radius == RADII[RADII > 0.26][0]
    assert choice.doubts == ()


@pytest.mark.parametrize(("distance", "taken"), [(0.62, True), (0.66, False)])
def test_images_join_while_clusters_stay_about_as_tight(distance: float, taken: bool) -> None:
    # Twelve images at 0.2 have 0.8 * 12 / 14 = 0.686; with two more at 0.62 0.685, 99.8 % of
    # it, at 0.66 0.674, 98.2 %.
    choice = choose(two_loose(14, distance))
    least = distance if taken else 0.19
    assert choice.radius == RADII[least < RADII][0]
    without, best = choice.silhouettes[5], max(choice.silhouettes)
    assert without == best == pytest.approx(0.8 * 12 / 14, abs=1e-6)


def test_small_clusters_are_in_doubt() -> None:
    graph, _ = people(5, 60, 0.1)
    (doubt,) = choose(graph).doubts
    assert "clusters of 5 images are small beside k1 = 20" in doubt
    assert choose(blocks([6] * 8, 0.2, [], 1.0)).doubts != ()
    assert choose(blocks([7] * 8, 0.2, [], 1.0)).doubts == ()
    assert auto_radius(blocks([6] * 8, 0.2, [], 1.0), min_samples=4, neighbors=18).doubts == ()
    (doubt,) = auto_radius(blocks([7] * 8, 0.2, [], 1.0), min_samples=4, neighbors=22).doubts
    assert "clusters of 7 images are small beside k1 = 22" in doubt


def test_fewer_images_than_min_samples_are_no_cluster() -> None:
    graph = blocks([5] * 8, 0.21, [], 1.0)
    assert auto_radius(graph, min_samples=5, neighbors=15).radius == RADII[RADII > 0.21][0]
    with pytest.raises(ClusteringError, match="no radius separates"):
        auto_radius(graph, min_samples=6, neighbors=15)


def test_images_seen_once_lower_the_silhouette() -> None:
    # Four people of five images at 0.2 from themselves, and others alone: 0.8 * 20 / N, 0.13 here
    # and 0.09 below.
    choice = choose(blocks([5] * 4 + [1] * 100, 0.2, [], 1.0))
    assert max(choice.silhouettes) == pytest.approx(0.8 * 20 / 120)
    with pytest.raises(ClusteringError, match="no radius separates"):
        choose(blocks([5] * 4 + [1] * 160, 0.2, [], 1.0))


def test_noise_that_nothing_separates_is_refused() -> None:
    rng = np.random.default_rng(0)
    graph = JaccardGraph(rng.normal(size=(400, 256)), k1=20, k2=6, variant="classic")
    with pytest.raises(ClusteringError, match="no radius separates these images"):
        choose(graph)


@pytest.mark.parametrize("images", [1, 3, 50])
def test_images_all_apart_are_refused(images: int) -> None:
    with pytest.raises(ClusteringError, match="no radius separates"):
        choose(blocks([1] * images, 0.0, [], 1.0))


@pytest.mark.parametrize("images", [3, 30, 300])
def test_images_all_the_same_are_refused(images: int) -> None:
    graph = JaccardGraph(np.ones((images, 4), np.float32), k1=20, k2=6, variant="classic")
    with pytest.raises(ClusteringError, match=r"not tell them apart|is a neighbor of all"):
        choose(graph)


@pytest.mark.parametrize("images", [60, 100])
def test_people_seen_once_are_refused_and_not_merged(images: int) -> None:
    graph, _ = people(1, images, 1.0)
    with pytest.raises(ClusteringError, match="not seen often enough"):
        choose(graph)


@pytest.mark.slow
def test_one_person_who_falls_apart_leaves_a_doubt() -> None:
    sizes = [800] + [17] * 70
    truth = np.repeat(np.arange(71), sizes)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(71, 128))[truth] + rng.normal(size=(len(truth), 128))
    graph = JaccardGraph(features, k1=20, k2=6, variant="classic")
    choice = choose(graph)
    assert agreement(graph, truth, choice.radius) < 0.2
    assert any("left out" in doubt for doubt in choice.doubts)


def test_a_cluster_far_larger_than_the_neighborhoods_is_in_doubt() -> None:
    assert choose(blocks([100, 12, 12], 0.2, [], 1.0)).doubts == ()
    (doubt,) = choose(blocks([101, 12, 12], 0.2, [], 1.0)).doubts
    assert "a cluster of 101 images is large beside k1 = 20" in doubt


def test_many_images_left_out_are_in_doubt() -> None:
    few, many = [12] * 7 + [1] * 36, [12] * 7 + [1] * 37  # 30.0 and 30.6 % of the images
    assert choose(blocks(few, 0.2, [], 1.0)).doubts == ()
    (doubt,) = choose(blocks(many, 0.2, [], 1.0)).doubts
    assert doubt.startswith("31% of the images are left out")


def test_fewer_images_than_neighbors_are_named() -> None:
    with pytest.raises(ClusteringError, match="k1 = 20 each of 8 images is a neighbor of all"):
        choose(blocks([1] * 8, 0.0, [], 1.0))
