"""Features, people and cameras of one crop are in one row of their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.errors import NoImagesError
from adapt.evaluation.scoring import network_embedder
from adapt.runtime.context import RunContext
from adapt.workflows.pretrain import pretrain
from benchmarks.methods.real import BACKBONE, SIZE
from benchmarks.methods.runs import CPU
from benchmarks.site_features import labelled_crops, site_features
from tests.support.specs import pretrain_spec
from tests.support.tiny_sets import write_market


def test_all_labelled_crops_are_embedded_row_by_row(tmp_path: Path) -> None:
    data = write_market(tmp_path / "data", persons=3)
    junk = data / "bounding_box_test" / "-1_c1s1_000000_00.png"
    junk.write_bytes((data / "query" / "0101_c1s1_000000_00.png").read_bytes())
    spec = pretrain_spec(data, backbone=BACKBONE, preprocessing=SIZE)
    run = pretrain(spec, RunContext(CPU), tmp_path / "run")
    site_features(run, data, "cpu").write(tmp_path / "new" / "site")
    names = ("features", "people", "cameras")
    features, people, cameras = (np.load(tmp_path / "new" / f"site-{n}.npy") for n in names)
    assert (features.dtype, people.dtype, cameras.dtype) == (np.float32, np.int64, np.int64)
    # Three people in each split, two cameras, two crops in each; train, query, gallery.
    expected = np.array([[1, 2, 3], [101, 102, 103], [101, 102, 103]])
    np.testing.assert_array_equal(people, expected.repeat(4, axis=1).ravel())
    np.testing.assert_array_equal(cameras, np.tile([0, 0, 1, 1], 9))
    crop = SIZE.load((data / "query" / "0102_c2s1_000001_00.png").read_bytes())
    own = network_embedder(run.network(), CPU)(crop[None])
    np.testing.assert_allclose(features[12 + 7], own[0], atol=1e-5)


def test_a_folder_without_labelled_crops_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoImagesError, match="no labelled crops"):
        labelled_crops(tmp_path)
