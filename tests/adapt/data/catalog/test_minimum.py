"""Sites that are too small are refused before anything is computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapt.clustering.labels.kmeans import auto_clusters
from adapt.config import Clustering
from adapt.data.catalog.minimum import check_amount
from adapt.errors import ClusteringError, TooFewCropsError
from adapt.types import UNTRACKED, CropSet, Sample


def site(*tracks: int, cameras: int = 1) -> CropSet:
    """Crops of these tracks; each track lies in one camera."""
    samples = tuple(
        Sample(Path(), str(n), max(track, 0) % cameras, track=track)
        for n, track in enumerate(tracks)
    )
    return CropSet(Path("site"), samples, tuple(f"c{n}" for n in range(cameras)))


def check(crops: CropSet, *, by_identity: bool = True, smallest: int = 4) -> tuple[str, ...]:
    return check_amount(
        crops, identities=4, instances=3, smallest_cluster=smallest, by_identity=by_identity
    )


@pytest.mark.parametrize(
    ("smallest", "by_identity", "min_crops"),
    [(4, True, 16), (1, True, 12), (8, True, 32), (4, False, 12), (8, False, 16)],
)
def test_min_crops(smallest: int, by_identity: bool, min_crops: int) -> None:
    """Batches of 4 x 3."""
    enough = site(*[UNTRACKED] * min_crops, cameras=2)
    assert check(enough, smallest=smallest, by_identity=by_identity) == ()
    message = rf"{min_crops - 1} crops, this recipe needs at least {min_crops}: batches of 4 x 3"
    with pytest.raises(TooFewCropsError, match=message):
        check(site(*[UNTRACKED] * (min_crops - 1)), smallest=smallest, by_identity=by_identity)
    with pytest.raises(TooFewCropsError, match="site has 0 crops"):
        check(site(), smallest=smallest, by_identity=by_identity)


def test_one_track_is_one_person() -> None:
    for by_identity in (True, False):
        with pytest.raises(TooFewCropsError, match="all 40 crops of site are of one track"):
            check(site(*[3] * 40, cameras=4), by_identity=by_identity)
    assert check(site(*[3] * 40, UNTRACKED, cameras=4)) == (), "nobody knows who that is"


def test_fewer_tracks_than_a_batch_takes() -> None:
    (warning,) = check(site(*[0, 1, 2] * 10, cameras=2))
    assert warning.startswith("3 tracks can show at most as many people, but a batch takes 4")
    assert check(site(*[0, 1, 2] * 10, cameras=2), by_identity=False) == ()
    assert check(site(*[0, 1, 2, 3] * 10, cameras=2)) == ()


def test_one_camera() -> None:
    (warning,) = check(site(*[UNTRACKED] * 40))
    assert "do not tell cameras apart" in warning


def test_smallest_cluster_is_what_clusters_really_need() -> None:
    assert Clustering(algorithm="dbscan", min_samples=5).smallest_cluster == 5
    assert Clustering(algorithm="hdbscan", min_cluster_size=9).smallest_cluster == 9
    assert Clustering(clusters=7).smallest_cluster == 1
    each = Clustering().smallest_cluster
    assert auto_clusters(16 * each, 16) == 16
    with pytest.raises(ClusteringError):
        auto_clusters(16 * each - 1, 16)
