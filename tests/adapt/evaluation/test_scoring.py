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
    market: Callable[..., Path],
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
