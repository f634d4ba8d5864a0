"""Clusters to look at: the largest, smallest and most mixed; what cameras saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.data.decoding.decode import DecodedCrops
from adapt.report.clusters import (
    SHOWN,
    CameraRow,
    camera_rows,
    cameras_per_cluster,
    choose_clusters,
    draw_sheet,
    mean_likeness,
)
from adapt.types import CropSet, Sample
from models.image import decode


def unit(*degrees: float) -> np.ndarray:
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def test_clusters_to_look_at_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2, 2, -1])
    features = unit(0, 1, 2, 0, 90, 0, 10, 45)
    assert choose_clusters(labels, features, 2) == {
        "largest": [0, 1],
        "smallest": [2],
        "most mixed": [],
    }
    assert choose_clusters(labels, features, 1) == {
        "largest": [0],
        "smallest": [1],
        "most mixed": [2],
    }
    assert "most mixed" not in choose_clusters(labels, None, 2)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), st.integers(1, 4))
def test_a_cluster_is_looked_at_once(codes: list[int], each: int) -> None:
    labels = np.unique(codes, return_inverse=True)[1]
    clusters = len(set(codes))
    chosen = choose_clusters(labels, unit(*range(len(codes))), each)
    shown = [i for found in chosen.values() for i in found]
    assert len(shown) == len(set(shown)) == min(clusters, 3 * each)


def test_without_clusters_there_is_none_to_look_at() -> None:
    labels = np.full(3, -1)
    assert choose_clusters(labels, unit(0, 1, 2), 2) == {
        "largest": [],
        "smallest": [],
        "most mixed": [],
    }


def test_likeness_by_hand() -> None:
    """Right angle: |((1, 0) + (0, 1)) / 2|^2 = 1/2; one direction: 1; opposite: 0."""
    labels = np.array([0, 0, 1, 1, 2, 2])
    found = mean_likeness(labels, unit(0, 90, 30, 30, 0, 180))
    np.testing.assert_allclose(found, [0.5, 1, 0], atol=1e-6)


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 360)), min_size=1, max_size=20))
def test_likeness_is_the_mean_over_all_pairs(crops: list[tuple[int, float]]) -> None:
    ids = sorted({label for label, _ in crops})
    labels = np.array([ids.index(label) for label, _ in crops])
    features = unit(*(angle for _, angle in crops))
    slow = []
    for i in range(len(ids)):
        own = [features[k].astype(float) for k in range(len(labels)) if labels[k] == i]
        slow.append(sum(float(a @ b) for a in own for b in own) / len(own) ** 2)
    np.testing.assert_allclose(mean_likeness(labels, features), slow, atol=1e-5)


def test_camera_rows_by_hand() -> None:
    labels, cameras = np.array([0, 0, 1, -1, -1]), np.array([0, 1, 1, 1, 2])
    assert camera_rows(labels, cameras, ("a", "b", "c")) == [
        CameraRow("a", 1, 1, 1),
        CameraRow("b", 3, 2, 2),
        CameraRow("c", 1, 0, 0),
    ]


@given(st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 3)), min_size=1, max_size=30))
def test_cameras_per_cluster_are_counted(crops: list[tuple[int, int]]) -> None:
    found = cameras_per_cluster(np.array([c[0] for c in crops]), np.array([c[1] for c in crops]))
    seen: dict[int, set[int]] = {}
    for label, camera in crops:
        if label >= 0:
            seen.setdefault(label, set()).add(camera)
    numbers = [len(cameras) for cameras in seen.values()]
    assert found.tolist() == [numbers.count(n) for n in range(1, max(numbers, default=0) + 1)]


def crops(cameras: list[int]) -> DecodedCrops:
    """Crops whose brightness is 10 for each camera code."""
    samples = tuple(Sample(Path(f"{i}.png"), f"{i}.png", c) for i, c in enumerate(cameras))
    images = np.full((len(cameras), 128, 64, 3), 0, np.uint8)
    images += (10 * np.array(cameras, np.uint8))[:, None, None, None]
    return DecodedCrops(CropSet(Path("site"), samples, ("a", "b", "c")), images)


def test_a_sheet_is_ordered_by_camera() -> None:
    data = crops([2, 0, 1, 0])
    sheet = draw_sheet(data, np.array([0, 1, 2, 3]), seed=0)
    assert sheet.caption == "4 crops; by camera: a 2, b 1, c 1"
    image = decode(sheet.image)
    assert image.shape == (128, 66 * 4 - 2, 3)
    shades = [image[64, 66 * i + 32, 0] for i in range(4)]
    np.testing.assert_allclose(shades, [0, 0, 10, 20], atol=3)


def test_of_a_large_cluster_some_are_shown() -> None:
    data = crops([0] * 40)
    sheet = draw_sheet(data, np.arange(40), seed=0)
    assert sheet.caption == f"40 crops, {SHOWN} of them shown; by camera: a 40"
    assert decode(sheet.image).shape == (128, 66 * SHOWN - 2, 3)
