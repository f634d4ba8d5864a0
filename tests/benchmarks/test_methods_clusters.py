"""Labels beside true ones: by hand, and in the order that a run keeps."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from benchmarks.methods.clusters import LabelQuality, label_quality, true_people
from models.image import Preprocessing
from tests.support.tiny_sets import write_market


def test_quality_by_hand() -> None:
    person = np.array([7, 7, 7, 8, 8, 9])
    labels = np.array([0, 0, 1, 1, 1, -1])
    found = label_quality(labels, person)
    # Pairs of the 5 labelled crops: 4 together in both kinds of labels 2 times, expected 1.6.
    assert found == LabelQuality(
        clusters=2,
        people=3,
        outliers=pytest.approx(1 / 6),  # type: ignore[arg-type]
        biggest=3,
        purity=pytest.approx(4 / 5),  # type: ignore[arg-type]
        rand=pytest.approx((2 - 1.6) / (4 - 1.6)),  # type: ignore[arg-type]
    )


def test_nobody_known_is_no_person() -> None:
    person = np.array([7, -1, 8, -1, 8, -1])
    labels = np.array([0, 0, 1, 1, 1, -1])
    found = label_quality(labels, person)
    assert (found.people, found.unknown, found.purity, found.rand) == (2, 3, 1.0, 1.0)
    assert (found.clusters, found.biggest, found.outliers) == (2, 3, pytest.approx(1 / 6))
    with pytest.raises(ValueError, match="no crop"):
        label_quality(np.array([0, -1]), np.array([-1, 3]))


def test_true_labels_are_perfect() -> None:
    person = np.array([3, 1, 3, 2, 2])
    found = label_quality(person, person)
    assert (found.clusters, found.outliers, found.purity, found.rand) == (3, 0, 1, 1)


def test_outliers_alone_are_refused() -> None:
    with pytest.raises(ValueError, match="no crop"):
        label_quality(np.array([-1, -1]), np.array([1, 2]))


def test_people_are_in_the_order_of_the_contents(tmp_path: Path) -> None:
    root = write_market(tmp_path)
    files = sorted(
        (root / "bounding_box_train").iterdir(),
        key=lambda path: hashlib.sha256(path.read_bytes()).digest(),
    )
    people = true_people(root, Preprocessing(height=32, width=16))
    assert people.tolist() == [int(path.name[:4]) for path in files]
