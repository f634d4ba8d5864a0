"""Each set of a run's crops is decoded once, by one process or by several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.runtime.distributed import SINGLE_PROCESS
from tests.support.shared_crops import both_read
from tests.support.two_processes import Pair, pair


@pytest.fixture(scope="module")
def two() -> Iterator[Pair]:
    with pair() as processes:
        yield processes


@pytest.fixture
def site(market: Callable[..., Path]) -> Path:
    folder = market("site") / "bounding_box_train"
    (folder / "broken_c1s1_1.jpg").write_bytes(b"no image")
    return folder


def test_alone_they_are_decoded_once_and_found_again(site: Path, tmp_path: Path) -> None:
    first, again = (both_read(SINGLE_PROCESS, site, tmp_path / "run") for _ in range(2))
    assert (first.decoded, again.decoded) == (1, 0)
    assert (first.keys, first.pixels) == (again.keys, again.pixels)


def test_the_first_of_two_decodes_for_both(two: Pair, site: Path, tmp_path: Path) -> None:
    first, second = two(both_read, site, tmp_path / "run")
    assert (first.decoded, second.decoded) == (1, 0)
    assert (first.keys, first.pixels) == (second.keys, second.pixels)
    assert len(first.keys) > 0
    again = two(both_read, site, tmp_path / "run")
    assert [each.decoded for each in again] == [0, 0]
    assert again[1].pixels == first.pixels


def test_where_the_file_cannot_be_opened_both_decode(two: Pair, site: Path, tmp_path: Path) -> None:
    first, second = two(both_read, site, tmp_path / "run", True)
    assert (first.decoded, second.decoded) == (1, 1)
    assert (first.keys, first.pixels) == (second.keys, second.pixels)


def test_nothing_to_decode_ends_both(site: Path, tmp_path: Path) -> None:
    for file in site.iterdir():
        file.write_bytes(b"no image")
    with pair() as processes:
        assert processes(both_read, site, tmp_path / "run") == ["DATA_UNUSABLE", "PROCESS_LOST"]
    assert not (tmp_path / "run").exists()
