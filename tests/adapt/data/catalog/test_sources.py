from __future__ import annotations

from pathlib import Path

import pytest

from adapt.data.catalog.sources import merge_sources, warn_of_copies
from adapt.errors import DataError
from adapt.types import CropSet, Sample


def test_merged_sources_keep_people_and_cameras_apart() -> None:
    def crops(root: str, persons: list[int]) -> CropSet:
        samples = tuple(
            Sample(Path(f"{root}/{i}.png"), f"{i}.png", camera=0, person=p)
            for i, p in enumerate(persons)
        )
        return CropSet(Path(root), samples, ("c1",))

    market = CropSet(
        Path("m"),
        (
            Sample(Path("1"), "bounding_box_train/1", 0, 5),
            Sample(Path("2"), "bounding_box_train/2", 0, 6),
            Sample(Path("3"), "bounding_box_test/3", 0, 0),
        ),
        ("c1",),
    )
    assert len(merge_sources([market])) == 2, "Market-1501's distractors are nobody"
    merged = merge_sources([crops("a", [7, 7, 9]), crops("b", [7, -1])])
    assert [s.person for s in merged.samples] == [0, 0, 1, 2]
    assert [s.camera for s in merged.samples] == [0, 0, 0, 1]
    assert merged.cameras == ("0/c1", "1/c1")
    with pytest.raises(DataError, match="two identities"):
        merge_sources([crops("a", [3, 3])])


def test_copies_in_two_sources_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sets = []
    for name, contents in (("a", [b"one", b"two"]), ("b", [b"two", b"six"])):
        samples = []
        for person, content in enumerate(contents):
            path = tmp_path / f"{name}{person}.png"
            path.write_bytes(content)
            samples.append(Sample(path, path.name, camera=0, person=person))
        sets.append(CropSet(tmp_path, tuple(samples), ("c1",)))
    warn_of_copies(merge_sources(sets))
    assert "in several --source folders: 1 crop (first" in caplog.text
    assert "b0.png is" in caplog.text
