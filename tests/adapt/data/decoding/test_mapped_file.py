"""Decoded crops in a file: the same pixels, found again only if nothing has changed."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.config import Recipe
from adapt.data.catalog.folders import read_site
from adapt.data.decoding.decode import DecodedCrops, decode_crops, fingerprint_of
from adapt.data.decoding.mapped_file import MappedCrops, kept_crops
from adapt.data.decoding.thinning import thin_crops
from adapt.errors import RunError
from adapt.types import CropSet
from adapt.workflows.session import made_by, read_crops
from models.image import Preprocessing
from tests.support.tiny_sets import write_market

SIZE = Preprocessing(height=32, width=16)
HOW = made_by(SIZE, Recipe(method="mmt"))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    root = write_market(tmp_path / "set", persons=4, each=3) / "bounding_box_train"
    (root / "broken_c1s1_1.jpg").write_bytes(b"no image")
    return root


def listed(site: Path) -> CropSet:
    return read_site(site)


def decoded(site: Path, allocate: Callable[..., np.ndarray] | None = None) -> DecodedCrops:
    options: dict[str, Any] = {} if allocate is None else {"allocate": allocate}
    return decode_crops(listed(site), SIZE, forget_names=True, **options)


def kept(site: Path, folder: Path) -> Path:
    file = MappedCrops(folder)
    file.describe(decoded(site, file.allocate), HOW)
    file.keep(folder / "target.crops")
    return folder / "target.crops"


def same(one: DecodedCrops | None, other: DecodedCrops) -> bool:
    assert one is not None
    return one.crops == other.crops and np.array_equal(one.images, other.images)


def test_a_mapped_set_is_the_one_in_memory(site: Path, tmp_path: Path) -> None:
    file = MappedCrops(tmp_path / "not" / "there" / "yet")
    assert same(decoded(site, file.allocate), decoded(site))
    assert not [p for p in tmp_path.iterdir() if p.name != "set"], "it has no name"


def test_what_was_kept_is_found_again(site: Path, tmp_path: Path) -> None:
    found = kept_crops(kept(site, tmp_path), listed(site), HOW)
    assert same(found, decoded(site))
    assert found is not None
    assert not found.images.flags.writeable


def test_thinned_crops_are_kept_thinned(site: Path, tmp_path: Path) -> None:
    listing = listed(site)
    tracked = listing.__class__(
        **{
            **vars(listing),
            "samples": tuple(
                s.__class__(s.path, s.key, s.camera, track=s.camera) for s in listing.samples
            ),
        }
    )
    file = MappedCrops(tmp_path)
    data = thin_crops(
        decode_crops(tracked, SIZE, forget_names=True, allocate=file.allocate),
        difference=0,
        per_track=2,
    )
    assert data.crops.thinned > 0
    file.describe(data, HOW)
    file.keep(tmp_path / "target.crops")
    found = kept_crops(tmp_path / "target.crops", tracked, HOW)
    assert same(found, data)


def change_pixels(site: Path) -> None:
    file = min(site.glob("*.png"))
    file.write_bytes(max(site.glob("*.png")).read_bytes())


def rename(site: Path) -> None:
    file = min(site.glob("*.png"))
    file.rename(file.with_name(f"9{file.name[1:]}"))


def remove(site: Path) -> None:
    min(site.glob("*.png")).unlink()


def add(site: Path) -> None:
    (site / "0001_c1s1_000099_00.png").write_bytes(min(site.glob("*.png")).read_bytes())


def mend(site: Path) -> None:
    (site / "broken_c1s1_1.jpg").write_bytes(min(site.glob("*.png")).read_bytes())


@pytest.mark.parametrize("change", [change_pixels, rename, remove, add, mend])
def test_a_changed_folder_is_noticed(
    site: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = kept(site, tmp_path)
    change(site)
    assert kept_crops(path, listed(site), HOW) is None


def test_another_size_or_thinning_is_another_set(site: Path, tmp_path: Path) -> None:
    path = kept(site, tmp_path)
    other = made_by(Preprocessing(height=32, width=32), Recipe(method="mmt"))
    assert kept_crops(path, listed(site), other) is None
    assert kept_crops(path, listed(site), made_by(SIZE)) is None


@pytest.mark.parametrize("end", [0, 5, 100, -1, -300])
def test_half_a_file_is_not_used_and_said_to_be_damaged(
    site: Path, tmp_path: Path, end: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = kept(site, tmp_path)
    path.write_bytes(path.read_bytes()[:end])
    assert kept_crops(path, listed(site), HOW) is None
    assert f"{path} is damaged" in caplog.text


def test_a_file_whose_pixels_do_not_fit_its_description_is_damaged(
    site: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = kept(site, tmp_path)
    path.write_bytes(path.read_bytes()[1:])
    assert kept_crops(path, listed(site), HOW) is None
    assert f"{path} is damaged" in caplog.text


def test_no_file_is_no_damage(site: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    listing = listed(site)
    caplog.clear()
    assert kept_crops(tmp_path / "target.crops", listing, HOW) is None
    assert kept_crops(Path(os.devnull), listing, HOW) is None
    assert not caplog.text


def test_the_fingerprint_is_found_without_decoding(site: Path) -> None:
    data = decoded(site)
    assert fingerprint_of(listed(site), SIZE, data.crops.dropped) == data.crops.fingerprint


def test_a_full_disk_is_said_before_anything_is_decoded(site: Path, tmp_path: Path) -> None:
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, unlimited[1]))
    try:
        with pytest.raises(RunError, match=r"has no room for .* GB .*: make room there"):
            decoded(site, MappedCrops(tmp_path / "run").allocate)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert not (tmp_path / "run").exists()


def test_a_file_that_cannot_be_named_is_done_without(
    site: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = MappedCrops(tmp_path)
    data = decoded(site, file.allocate)
    file.describe(data, HOW)
    file.keep(tmp_path / "gone" / "target.crops")
    assert "--resume decodes again" in caplog.text
    assert same(data, decoded(site)), "the run continues with it"


def test_reading_a_site_leaves_no_open_files(site: Path, tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        read_crops(listed(site), Recipe(method="mmt"), SIZE, MappedCrops(tmp_path).allocate)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
