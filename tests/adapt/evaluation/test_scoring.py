"""Labelled folders, networks, bundles and feature files to scores."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.data.catalog.folders import read_site  # noqa: E402
from adapt.data.decoding.decode import DecodedCrops, decode_crops  # noqa: E402
from adapt.errors import DataError  # noqa: E402
from adapt.evaluation.scoring import LabelledCrops, network_embedder, score_features  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402
from models.image import Preprocessing  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")

SIZE = Preprocessing(height=32, width=16)


def mean_color(images: np.ndarray) -> np.ndarray:
    """An embedder whose answers are known: the crop's mean color."""
    return images.mean((1, 2)).astype(np.float32)


def test_query_against_gallery(market: Callable[..., Path]) -> None:
    labelled = LabelledCrops.read(market(), SIZE)
    scores = labelled.score(mean_color)
    assert scores.queries == 12
    assert scores.gallery == 12
    assert scores.mAP > 0.8


def test_a_lone_training_folder_is_ranked_against_itself(market: Callable[..., Path]) -> None:
    root = market()
    for folder in ("query", "bounding_box_test"):
        for path in (root / folder).iterdir():
            path.unlink()
        (root / folder).rmdir()
    labelled = LabelledCrops.read(root, SIZE)
    assert labelled.query is labelled.gallery
    for protocol in ("market", "other-camera"):
        scores = labelled.score(mean_color, protocol=protocol)
        assert scores.queries == len(labelled.query)
    (root / "query").mkdir()
    with pytest.raises(DataError, match="bounding_box_train alone"):
        LabelledCrops.read(root, SIZE)


def test_what_is_missing_to_score_is_named(market: Callable[..., Path], tmp_path: Path) -> None:
    root = market()
    for old, new in (("bounding_box_train", "train"), ("bounding_box_test", "gallery")):
        (root / old).rename(root / new)
    with pytest.raises(
        DataError,
        match="bounding_box_test is not a folder; it has gallery, train, but crops named as in",
    ):
        LabelledCrops.read(root, SIZE)
    with pytest.raises(DataError, match="holds no labelled set: looked for the folders"):
        LabelledCrops.read(tmp_path / "other", SIZE)


def test_centering_is_over_both_sets(market: Callable[..., Path]) -> None:
    """Cameras 1 and 2 of the tiny set differ by a constant, which centering takes away."""
    labelled = LabelledCrops.read(market(cameras=2), SIZE)
    query, gallery = mean_color(labelled.query.images), mean_color(labelled.gallery.images)
    cameras = labelled.gallery.crops.camera_codes
    gallery = gallery + 400 * cameras[:, None] * np.array([1, -0.5, 0.25], np.float32)
    query = query + 400 * labelled.query.crops.camera_codes[:, None] * np.array(
        [1, -0.5, 0.25], np.float32
    )
    plain = labelled.rank(query, gallery, protocol="other-camera")
    centered = labelled.rank(query, gallery, protocol="other-camera", camera_centering=True)
    assert centered.mAP > plain.mAP + 0.1


def test_network_gives_scores_in_range(market: Callable[..., Path]) -> None:
    torch.manual_seed(0)
    embed = network_embedder(ReIDNet("resnet18"), torch.device("cpu"))
    assert 0 < LabelledCrops.read(market(), SIZE).score(embed).mAP <= 1


def test_feature_file(tmp_path: Path) -> None:
    eye = np.eye(3, dtype=np.float32)
    np.savez(
        tmp_path / "f.npz",
        query_features=eye,
        query_ids=[1, 2, 3],
        query_cameras=[1, 1, 1],
        gallery_features=eye[[0, 2, 1]],
        gallery_ids=[1, 2, 3],
        gallery_cameras=[2, 2, 2],
    )
    scores = score_features(tmp_path / "f.npz")
    assert scores.cmc(1) == pytest.approx(1 / 3)
    centered = score_features(tmp_path / "f.npz", camera_centering=True)
    assert centered.queries == 3


def test_identities_of_a_site_are_told_where_all_its_crops_are_labelled(
    market: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = market()
    train = decode_crops(read_site(root / "bounding_box_train", None), SIZE, forget_names=True)
    for folder in ("query", "bounding_box_test"):
        shutil.rmtree(root / folder)
    labelled = LabelledCrops.read(root, SIZE)
    persons = labelled.persons_of(train.crops)
    assert persons is not None
    assert persons.tolist() == [int(s.path.name[:4]) for s in train.crops.samples]
    half = replace(labelled.query.crops, samples=labelled.query.crops.samples[::2])
    some = DecodedCrops(half, labelled.query.images[::2])
    assert LabelledCrops(some, some).persons_of(train.crops) is None
    assert "labels name 12 of 24 crops of the site, so" in caplog.text
    first, *others = labelled.query.crops.samples
    junk = replace(labelled.query.crops, samples=(replace(first, person=-1), *others))
    with_junk = DecodedCrops(junk, labelled.query.images)
    persons = LabelledCrops(with_junk, with_junk).persons_of(train.crops)
    assert persons is not None
    assert (persons == -1).sum() == 1
    assert "1 of 24 crops of the site are junk" in caplog.text


def write_features(path: Path, **changed: object) -> Path:
    eye = np.eye(3, dtype=np.float32)
    arrays: dict[str, object] = {
        "query_features": eye[[0, 0, 1]],
        "query_ids": [1, 1, 2],
        "query_cameras": [1, 1, 1],
        "gallery_features": eye[[0, 0, 1]],
        "gallery_ids": [1, 1, 2],
        "gallery_cameras": [1, 1, 1],
    }
    given = {k: np.asarray(v) for k, v in (arrays | changed).items() if v is not None}
    np.savez(path, **given)  # type: ignore[arg-type]
    return path


def test_a_row_is_its_own_query_where_queries_are_the_gallery(tmp_path: Path) -> None:
    """One model's vectors of a folder, twice: the same row is the query, the like one a match."""
    scores = score_features(write_features(tmp_path / "f.npz"), protocol="any-camera")
    assert (scores.mAP, scores.queries, scores.without_match) == (1.0, 2, 1)
    assert scores.min_ranked == 2
    bare = write_features(tmp_path / "bare.npz", query_cameras=None, gallery_cameras=None)
    assert score_features(bare, protocol="any-camera").queries == 2


def test_names_tell_which_vector_of_a_gallery_is_the_query(tmp_path: Path) -> None:
    """Here the gallery has one crop more, so rows do not tell."""
    eye = np.eye(3, dtype=np.float32)
    more: dict[str, object] = {
        "gallery_features": eye[[1, 0, 0, 1]],
        "gallery_ids": [2, 1, 1, 2],
        "gallery_cameras": [1, 1, 1, 1],
    }
    with pytest.raises(DataError, match="3 query vectors found again in the gallery"):
        score_features(write_features(tmp_path / "f.npz", **more), protocol="any-camera")
    names = {"query_names": ["a", "b", "c"], "gallery_names": ["c", "a", "b", "d"]}
    named = write_features(tmp_path / "named.npz", **more, **names)
    scores = score_features(named, protocol="any-camera")
    assert (scores.queries, scores.mAP, scores.min_ranked) == (3, 1.0, 3)
    apart = write_features(tmp_path / "apart.npz", query_features=eye[[2, 1, 0]])
    assert score_features(apart, protocol="any-camera").min_ranked == 3


@pytest.mark.parametrize("kind", ["scaled", "another batch", "float16"])
def test_a_crop_that_was_read_twice_is_found_again(kind: str, tmp_path: Path) -> None:
    """Rounding, precision and length of its two vectors differ."""
    rng = np.random.default_rng(0)
    once = rng.normal(size=(6, 32)).astype(np.float32)
    twice = {
        "scaled": 2 * once,
        "another batch": once + np.float32(1e-5) * rng.normal(size=once.shape),
        "float16": once.astype(np.float16),
    }[kind]
    labels = {"query_ids": [1, 1, 2, 2, -1, 3], "gallery_ids": [1, 1, 2, 2, -1, 4]}
    table: dict[str, object] = {"query_features": once, "gallery_features": twice, **labels}
    table |= {"query_cameras": None, "gallery_cameras": None}
    with pytest.raises(DataError, match="4 query vectors found again in the gallery"):
        score_features(write_features(tmp_path / "f.npz", **table), protocol="any-camera")
    table["gallery_features"] = rng.normal(size=once.shape)
    scores = score_features(write_features(tmp_path / "g.npz", **table), protocol="any-camera")
    assert scores.queries == 4


def test_centering_hides_neither_zeros_nor_unknown_cameras(tmp_path: Path) -> None:
    zero = np.eye(3, dtype=np.float32)
    zero[1] = 0
    cameras = {"query_cameras": [1, 1, 1], "gallery_cameras": [2, 2, 2]}
    for side in ("query", "gallery"):
        path = write_features(tmp_path / f"{side}.npz", **cameras, **{f"{side}_features": zero})
        with pytest.raises(DataError, match=f"1 {side} feature row with nothing but zeros"):
            score_features(path, camera_centering=True)
    some = write_features(tmp_path / "some.npz", query_cameras=[1, -1, 1])
    with pytest.raises(DataError, match="the camera of 1 image is not known"):
        score_features(some, camera_centering=True)


def test_copies_of_the_query_are_the_query(market: Callable[..., Path]) -> None:
    """One camera; each query lies in the gallery, too, as many sets of trackers have it."""
    root = market(cameras=1, each=2)
    for path in (root / "query").iterdir():
        shutil.copy(path, root / "bounding_box_test" / f"{path.stem}_again.png")
    (root / "bounding_box_test" / "0104_c1s1_000001_00.png").write_bytes(b"not an image")
    labelled = LabelledCrops.read(root, SIZE)
    with pytest.raises(DataError, match=r"they show 1 camera; .* --protocol any-camera"):
        labelled.check("market")
    labelled.check("any-camera")
    scores = labelled.score(mean_color, protocol="any-camera")
    told = scores.to_dict()
    assert (told["queries"], told["queries_asked"], told["gallery"]) == (6, 6, 12)
    assert (told["gallery_unreadable"], scores.min_ranked) == (1, 11)
    assert scores.in_words() == "6 queries, 12 in gallery (1 cannot be read)"
