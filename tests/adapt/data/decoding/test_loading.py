from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.data.decoding.loading import load_crops
from adapt.runs.info import DataInfo
from adapt.types import CropSet, Dropped, Sample
from models.image import Preprocessing

SIZE = Preprocessing(height=32, width=16)


def listing(root: Path, cameras: int, crops: int = 1) -> CropSet:
    """crops: of each camera."""
    root.mkdir()
    samples = []
    for camera in range(cameras):
        for number in range(crops):
            path = root / f"{camera:02d}_{number}.png"
            cv2.imwrite(str(path), np.full((32, 16, 3), 9 * camera, np.uint8))
            samples.append(Sample(path, path.name, camera=camera))
    return CropSet(root, tuple(samples), tuple(f"c{n}" for n in range(cameras)))


@pytest.mark.parametrize(("cameras", "more"), [(12, ""), (13, ", ...")])
def test_the_crops_of_the_first_twelve_cameras_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cameras: int, more: str
) -> None:
    caplog.set_level(logging.INFO)
    crops = listing(tmp_path / "site", cameras, crops=2)
    assert len(load_crops(crops, SIZE)) == 2 * cameras
    seen = ", ".join(f"c{n} 2" for n in range(12))
    assert f"{2 * cameras} crops (by camera: {seen}{more})" in caplog.text


@pytest.mark.parametrize(("broken", "more"), [(1, ""), (10, ""), (11, " and 1 more")])
def test_ten_files_that_cannot_be_read_are_named_and_all_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: int, more: str
) -> None:
    crops = listing(tmp_path / "site", 1, crops=15)
    for sample in crops.samples[:broken]:
        sample.path.write_bytes(b"no image")
    data = load_crops(crops, SIZE)
    assert len(data) == 15 - broken
    named = [line for line in caplog.messages if line.startswith("left out ")]
    keys = ", ".join(sample.key for sample in crops.samples[: min(broken, 10)])
    reason = "not an image that can be read; send JPEG, PNG, BMP, WebP or TIFF"
    assert named == [f"left out {keys}{more}: {reason}"]
    assert f"{broken} of 15 crops cannot be read" in caplog.messages


def test_what_was_left_out_by_name_is_told_by_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    crops = replace(
        listing(tmp_path / "site", 1),
        dropped=(
            Dropped("a.txt", "no image", image=False),
            Dropped("cam1", "a broken link"),
            Dropped("b.txt", "no image", image=False),
        ),
    )
    crops = replace(crops, unlisted=(Dropped("z.jpg", "not listed in m.csv", image=False),))
    data = load_crops(crops, SIZE)
    told = {record.getMessage(): record.levelname for record in caplog.records}
    assert told["left out a.txt, b.txt: no image"] == "INFO"
    assert told["left out cam1: a broken link"] == "WARNING"
    assert told["left out z.jpg: not listed in m.csv"] == "INFO"
    assert DataInfo.of(data.crops, "target").unlisted == 1
