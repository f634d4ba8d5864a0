"""Market-1501, DukeMTMC-reID and MSMT17 as they lie on disk: tiny folders of the same shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adapt.data.catalog.folders import labelled_splits, read_labelled, read_market, read_site
from adapt.data.catalog.msmt17 import read_msmt17
from adapt.data.catalog.sources import merge_sources
from adapt.errors import DataError, NoImagesError
from adapt.evaluation.metrics import evaluate_ranking
from adapt.types import UNLABELLED, CropSet
from tests.support.tiny_sets import write_duke, write_market, write_msmt17

WRITERS: dict[str, Callable[[Path], Path]] = {
    "market": write_market,
    "duke": write_duke,
    "msmt17": write_msmt17,
    "msmt17 v2": lambda root: write_msmt17(root, version=2),
}


@pytest.mark.parametrize("name", WRITERS)
def test_each_set_gives_its_parts_people_and_cameras(name: str, tmp_path: Path) -> None:
    """6 people in training, 3 others to test, each twice in both cameras."""
    root = WRITERS[name](tmp_path / "set")
    assert labelled_splits(root) == {"train", "query", "gallery"}
    train, query, gallery = (read_labelled(root, (s,)) for s in ("train", "query", "gallery"))
    assert (len(train), len(query), len(gallery)) == (24, 12, 12)
    assert train.cameras == query.cameras == gallery.cameras == ("c1", "c2")
    assert sorted(Counter(train.persons.tolist()).values()) == [4] * 6
    assert set(query.persons) == set(gallery.persons)
    assert not set(query.persons) & set(train.persons), "test people are nobody of training"
    for crops in (train, query, gallery):
        for sample in crops.samples:
            assert sample.path.is_file()
            assert sample.path == root / sample.key
            assert camera_in_the_name(sample.path, crops) == crops.cameras[sample.camera]


def camera_in_the_name(path: Path, crops: CropSet) -> str:
    """By hand: Market and Duke write c2, MSMT17 02 in the third place."""
    parts = path.name.split("_")
    return f"c{int(parts[2])}" if len(parts[1]) == 3 else parts[1][:2]


@pytest.mark.parametrize("name", WRITERS)
def test_a_site_is_the_training_part_without_its_people(name: str, tmp_path: Path) -> None:
    root = WRITERS[name](tmp_path / "set")
    site, train = read_site(root), read_labelled(root, ("train",))
    assert {s.key for s in site.samples} == {s.key for s in train.samples}
    assert set(site.persons) == {UNLABELLED}
    cameras = {s.key: train.cameras[s.camera] for s in train.samples}
    assert {s.key: site.cameras[s.camera] for s in site.samples} == cameras


def test_a_pattern_names_the_cameras_of_msmt17_too(tmp_path: Path) -> None:
    site = read_site(write_msmt17(tmp_path), r"_(?P<camera>\d\d)_0303")
    assert site.cameras == ("01", "02")


@pytest.mark.parametrize("name", WRITERS)
def test_all_parts_as_one_source_keep_everybody_apart(name: str, tmp_path: Path) -> None:
    """MSMT17 counts from 0 in both halves: its 0000 of training is not its 0000 of the test."""
    root = WRITERS[name](tmp_path / "set")
    merged = merge_sources([read_labelled(root, ("train", "query", "gallery"))])
    assert len(merged) == 48
    assert sorted(Counter(merged.persons.tolist()).values()) == [4] * 6 + [8] * 3


def test_msmt17_cameras_are_numbers(tmp_path: Path) -> None:
    root = write_msmt17(tmp_path, cameras=15, each=1)
    assert read_msmt17(root, ("train",)).cameras == tuple(f"c{n}" for n in range(1, 16))


def test_msmt17_trains_on_both_lists(tmp_path: Path) -> None:
    root = write_msmt17(tmp_path)
    assert set(read_msmt17(root, ("train",)).persons) == set(range(6))
    (root / "list_val.txt").unlink()
    assert labelled_splits(root) == {"query", "gallery"}
    with pytest.raises(NoImagesError, match=r"list_val\.txt cannot be read"):
        read_labelled(root, ("train",))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", NoImagesError, r"list_query\.txt is empty"),
        ("0000/0000_000_01_x.jpg\n", DataError, "line 1"),
        ("0000/0000_000_01_x.jpg 0\n0000/holiday.jpg 0\n", DataError, "line 2: .*holiday"),
        ("0000/0000_000_01_x.jpg one\n", DataError, "line 1"),
        ("0000/0000_000_01_x.jpg 0\n0000/0000_000_01_x.jpg 0\n", DataError, "share one key"),
    ],
)
def test_damaged_lists_say_where(
    tmp_path: Path, text: str, error: type[DataError], message: str
) -> None:
    root = write_msmt17(tmp_path)
    (root / "list_query.txt").write_text(text)
    with pytest.raises(error, match=message):
        read_labelled(root, ("query",))


def test_msmt17_without_its_crops(tmp_path: Path) -> None:
    root = write_msmt17(tmp_path)
    (root / "test").rename(root / "elsewhere")
    with pytest.raises(NoImagesError, match="neither of the folders test and mask_test_v2"):
        read_labelled(root, ("query",))


def test_what_is_no_labelled_set_is_told_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(NoImagesError, match=r"bounding_box_train, query.*list_train\.txt"):
        read_labelled(tmp_path, ("train",))


def test_markets_junk_and_distractors_follow_its_protocol(tmp_path: Path) -> None:
    """-1 is not there at all; 0000 pushes matches down; neither is learned from."""
    root = write_market(tmp_path)
    gallery = root / "bounding_box_test"
    some = sorted(gallery.iterdir())[0]
    for name in ("-1_c2s1_000001_00.png", "0000_c2s1_000001_00.png"):
        (gallery / name).write_bytes(some.read_bytes())
    assert {-1, 0} < set(read_market(root, ("gallery",)).persons)
    learned = merge_sources([read_labelled(root, ("train", "gallery"))]).samples
    assert not {s.path.name.partition("_")[0] for s in learned} & {"-1", "0000"}

    def mean_ap(extra: int) -> float:
        """One query, whose match comes second behind an `extra` of the gallery."""
        return evaluate_ranking(
            np.array([[1.0, 0.0]]),
            np.array([101]),
            np.array([1]),
            np.array([[1.0, 0.0], [0.8, 0.6]]),
            np.array([extra, 101]),
            np.array([2, 2]),
            protocol="market",
        ).mAP

    assert mean_ap(-1) == 1.0
    assert mean_ap(0) == 0.5
