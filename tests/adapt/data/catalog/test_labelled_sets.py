"""Market-1501, DukeMTMC-reID and MSMT17 as they lie on disk: tiny folders of the same shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from adapt.data.catalog.folders import labelled_splits, read_labelled, read_market, read_site
from adapt.data.catalog.msmt17 import read_msmt17
from adapt.data.catalog.sources import merge_sources
from adapt.data.catalog.splits import Split
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


@pytest.mark.parametrize("damage", ["missing", "a broken link", "not a file"])
@pytest.mark.parametrize("name", ["list_train.txt", "list_val.txt"])
def test_msmt17_without_a_training_list_is_no_site(tmp_path: Path, name: str, damage: str) -> None:
    root = write_msmt17(tmp_path)
    (root / name).unlink()
    if damage == "a broken link":
        (root / name).symlink_to("gone.txt")
    if damage == "not a file":
        (root / name).mkdir()
    for pattern in (None, r"_(\d\d)_"):
        with pytest.raises(DataError, match=rf"but {name} is {damage}: restore it"):
            read_site(root, pattern)


def test_msmt17_without_its_training_crops_is_no_site(tmp_path: Path) -> None:
    root = write_msmt17(tmp_path)
    (root / "train").rename(tmp_path / "x")
    with pytest.raises(DataError, match="but neither train nor mask_train_v2 is a folder: restore"):
        read_site(root)


@pytest.mark.parametrize("damage", ["missing", "a broken link", "not a folder"])
def test_market_without_its_training_crops_is_no_site(tmp_path: Path, damage: str) -> None:
    root = write_market(tmp_path / "set")
    train = (root / "bounding_box_train").rename(tmp_path / "elsewhere")
    if damage == "a broken link":
        (root / "bounding_box_train").symlink_to("gone")
    if damage == "not a folder":
        (root / "bounding_box_train").write_text("unpacked by halves")
    with pytest.raises(DataError, match=f"but bounding_box_train is {damage}: restore it"):
        read_site(root)
    with pytest.raises(DataError, match="bounding_box_train is"):
        read_labelled(root, ("train",))
    (root / "bounding_box_train").unlink(missing_ok=True)
    (root / "bounding_box_train").symlink_to(train)
    assert len(read_site(root)) == 24, "a link that leads somewhere is followed"


@pytest.mark.parametrize("name", ["query", "bounding_box_test"])
def test_a_broken_part_of_a_set_does_not_make_a_smaller_set(tmp_path: Path, name: str) -> None:
    root = write_market(tmp_path)
    (root / name).rename(root / "elsewhere")
    assert labelled_splits(root) == {"train", "query", "gallery"} - {
        "query" if name == "query" else "gallery"
    }
    (root / name).symlink_to("gone")
    with pytest.raises(DataError, match=f"{name} is a broken link, so a part of the set"):
        labelled_splits(root)


@pytest.mark.parametrize("name", ["market", "msmt17"])
@pytest.mark.parametrize("place", ["set", "a/b", "labeled"])
def test_a_set_further_below_is_named(tmp_path: Path, name: str, place: str) -> None:
    root = WRITERS[name](tmp_path / place)
    with pytest.raises(DataError, match=rf"the place of 1 labelled set: give {root}$"):
        read_site(tmp_path)
    with pytest.raises(NoImagesError, match=rf"give one of the sets below: {root}$"):
        read_labelled(tmp_path, ("train",))


def test_the_variants_of_cuhk03_np_are_two_sets(tmp_path: Path) -> None:
    roots = [write_market(tmp_path / variant) for variant in ("detected", "labeled")]
    for read in (read_site, lambda root: read_labelled(root, ("train",))):
        with pytest.raises(DataError, match=f"give one of .*{roots[0]}, {roots[1]}"):
            read(tmp_path)
    assert len(read_site(roots[0])) == 24


def test_folders_of_other_tools_are_no_cameras(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_market(tmp_path)
    for old, new in (("bounding_box_train", "train"), ("bounding_box_test", "gallery")):
        (root / old).rename(root / new)
    with pytest.raises(
        DataError, match="parts, which are not cameras: gallery, query, train; give"
    ):
        read_site(root)
    with pytest.raises(
        NoImagesError,
        match=r"it has gallery, train, but crops named as in Market-1501 .* bounding_box_train",
    ):
        read_labelled(root, ("train",))
    assert len(read_site(root / "train")) == 24
    assert read_site(root, r"_(c\d)").cameras == ("c1", "c2")
    assert "the crops of gallery, query, train are all taken for the site's" in caplog.text


@pytest.mark.parametrize(
    "folders",
    [
        ["image_query", "image_test", "image_train"],
        ["gallery", "train_set"],
        ["pytorch/gallery", "pytorch/train_all"],
    ],
)
def test_the_folders_of_other_tools_are_named_with_the_names_to_use(
    tmp_path: Path, folders: list[str]
) -> None:
    """VeRi; a set of one's own; what a script of Person_reID_baseline_pytorch writes."""
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "0001_c001_00016450_0.jpg").write_bytes(b"")
    with pytest.raises(NoImagesError, match=rf"it has {', '.join(folders)}, but .* are found in"):
        read_labelled(tmp_path, ("train",))


@pytest.mark.parametrize("version", [1, 2])
def test_msmt17_without_its_lists_is_told_where_they_come_from(
    tmp_path: Path, version: Literal[1, 2]
) -> None:
    root = write_msmt17(tmp_path, version=version)
    for path in root.glob("list_*.txt"):
        path.unlink()
    with pytest.raises(
        NoImagesError, match=r"MSMT17, but list_train.txt, .* are missing: its auth"
    ):
        read_labelled(root, ("train",))
    with pytest.raises(DataError, match=r"parts|list_train\.txt is missing"):
        read_site(root)


def test_what_macs_put_into_archives_is_no_set(tmp_path: Path) -> None:
    """`__MACOSX` repeats each folder, with a hidden file for each file."""
    root = write_market(tmp_path / "set")
    for folder in ("bounding_box_train", "query"):
        for path in list((root / folder).iterdir()):
            for copy in (path.parent, tmp_path / "__MACOSX" / folder):
                copy.mkdir(parents=True, exist_ok=True)
                (copy / f"._{path.name}").write_bytes(b"\0\5\26\7")
    assert len(read_labelled(root, ("train",))) == 24
    with pytest.raises(NoImagesError, match=f"give one of the sets below: {root}$"):
        read_labelled(tmp_path, ("train",))
    with pytest.raises(DataError, match=f"the place of 1 labelled set: give {root}$"):
        read_site(tmp_path)


def test_blank_lines_and_marks_of_editors_in_a_list_do_not_count(tmp_path: Path) -> None:
    root = write_msmt17(tmp_path)
    before = read_msmt17(root, ("train",))
    text = (root / "list_train.txt").read_text()
    for other in (text + "\n", text + "\n \n", text.replace("\n", "\r\n"), "\ufeff\n" + text,
                  text.replace(" ", "\t")):  # fmt: skip
        (root / "list_train.txt").write_text(other, "utf-8", newline="")
        assert read_msmt17(root, ("train",)) == before


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("\n\n", NoImagesError, r"list_query\.txt is empty"),
        (f"0000/0000_000_01_x.jpg {2**63 - 100_000}\n", DataError, "line 1.* above 92233"),
        (f"0000/0000_000_{'9' * 30}_x.jpg 1\n", DataError, "line 1.*a camera above 92233"),
        ("0000/0000_000_01_x.jpg -1\n", DataError, "line 1"),
        ("\n0000/0000_000_01_x.jpg\n", DataError, "line 2"),
        ("", NoImagesError, r"list_query\.txt is empty"),
        ("0000/0000_000_01_x.jpg\n", DataError, "line 1"),
        ("0000/0000_000_01_x.jpg 0\n0000/holiday.jpg 0\n", DataError, "line 2: .*holiday"),
        ("0000/0000_000_01_x.jpg one\n", DataError, "line 1"),
        (
            "0000/0000_000_01_x.jpg 0\n0000/0000_000_01_x.jpg 0\n",
            DataError,
            r"line 2: .*01_x\.jpg is in list_query\.txt, line 1, too",
        ),
    ],
)
def test_damaged_lists_say_where(
    tmp_path: Path, text: str, error: type[DataError], message: str
) -> None:
    root = write_msmt17(tmp_path)
    (root / "list_query.txt").write_text(text)
    with pytest.raises(error, match=message):
        read_labelled(root, ("query",))


@pytest.mark.parametrize("version", [1, 2])
def test_images_that_msmt17s_lists_do_not_name_are_told_once(
    tmp_path: Path, version: Literal[1, 2]
) -> None:
    root = write_msmt17(tmp_path, version=version)
    train, test = ("train", "test") if version == 1 else ("mask_train_v2", "mask_test_v2")
    for folder in (train, test):
        (root / folder / "0000" / "more.jpg").write_bytes(b"never opened here")
    asked: tuple[Split, ...] = ("train", "query", "gallery")
    parts = [read_labelled(root, (split,)) for split in asked]
    assert [[each.key for each in part.unlisted] for part in parts] == [
        [f"{train}/0000/more.jpg"],
        [],
        [f"{test}/0000/more.jpg"],
    ]
    assert parts[0].unlisted[0].reason == "not listed in list_train.txt or list_val.txt"
    assert read_site(root).unlisted == parts[0].unlisted
    assert len(merge_sources(parts).unlisted) == 2


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


def test_a_crop_in_two_lists_of_msmt17_is_named_with_both_lines(tmp_path: Path) -> None:
    root = write_msmt17(tmp_path)
    (root / "list_val.txt").write_text((root / "list_train.txt").read_text())
    with pytest.raises(DataError, match=r"list_val.txt, line 1: .* in list_train.txt, line 1, too"):
        read_labelled(root, ("train",))
