"""Tiny labelled sets on disk."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

TEST_PEOPLE = range(101, 104)


def write_market(
    root: Path, *, persons: int = 6, cameras: int = 2, each: int = 2, seed: int = 0
) -> Path:
    """Write a Market-1501-style set of noisy one-color people; gives `root`."""
    rng = np.random.default_rng(seed)
    for folder, people in (
        ("bounding_box_train", range(1, persons + 1)),
        ("query", TEST_PEOPLE),
        ("bounding_box_test", TEST_PEOPLE),
    ):
        for person, camera, frame in _shots(people, cameras, each):
            name = f"{person:04d}_c{camera}s1_{frame:06d}_00.png"
            _write_crop(root / folder / name, person, camera, rng)
    return root


def write_duke(
    root: Path, *, persons: int = 6, cameras: int = 2, each: int = 2, seed: int = 0
) -> Path:
    """Write a set of DukeMTMC-reID's shape: names such as 0001_c2_f0046182.jpg; gives `root`."""
    rng = np.random.default_rng(seed)
    for folder, people in (
        ("bounding_box_train", range(1, persons + 1)),
        ("query", TEST_PEOPLE),
        ("bounding_box_test", TEST_PEOPLE),
    ):
        for person, camera, frame in _shots(people, cameras, each):
            name = f"{person:04d}_c{camera}_f{46182 + frame:07d}.jpg"
            _write_crop(root / folder / name, person, camera, rng)
    return root


def write_msmt17(
    root: Path,
    *,
    persons: int = 6,
    cameras: int = 2,
    each: int = 2,
    seed: int = 0,
    version: Literal[1, 2] = 1,
) -> Path:
    """Write a set of MSMT17's shape: people from 0 in train and in test, the last in list_val."""
    rng = np.random.default_rng(seed)
    train, test = ("train", "test") if version == 1 else ("mask_train_v2", "mask_test_v2")
    for folder, file, people, frames in (
        (train, "list_train.txt", range(persons - 1), range(each)),
        (train, "list_val.txt", range(persons - 1, persons), range(each)),
        (test, "list_query.txt", range(len(TEST_PEOPLE)), range(each)),
        (test, "list_gallery.txt", range(len(TEST_PEOPLE)), range(each, 2 * each)),
    ):
        lines = []
        for person, camera, frame in _shots(people, cameras, len(frames)):
            number = frames[frame]
            path = (
                f"{person:04d}/{person:04d}_{number:03d}_{camera:02d}_0303morning_0015_{number}.jpg"
            )
            color = person if folder == train else person + TEST_PEOPLE.start
            _write_crop(root / folder / path, color, camera, rng)
            lines.append(f"{path} {person}\n")
        (root / file).write_text("".join(lines))
    return root


def _shots(people: Iterable[int], cameras: int, each: int) -> Iterable[tuple[int, int, int]]:
    return (
        (person, camera, frame)
        for person in people
        for camera in range(1, cameras + 1)
        for frame in range(each)
    )


def _write_crop(path: Path, person: int, camera: int, rng: np.random.Generator) -> None:
    """A crop in the person's color, lighter by camera."""
    path.parent.mkdir(parents=True, exist_ok=True)
    color = np.random.default_rng(person).integers(0, 256, 3)
    noise = rng.normal(0, 12, (40, 20, 3)) + 15 * camera
    assert cv2.imwrite(str(path), np.clip(color + noise, 0, 255).astype(np.uint8))
