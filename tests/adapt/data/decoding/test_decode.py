"""Decoding a folder: what cannot be read is left out, by path, and nothing else changes."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from adapt.data.catalog.folders import read_site
from adapt.data.decoding.decode import decode_crops
from adapt.errors import NoImagesError
from models.image import Preprocessing
from tests.support.exif_files import stored_turned

SIZE = Preprocessing(height=32, width=16)


def write(path: Path, seed: int, height: int = 40, width: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), image)


def test_bad_files_are_reported_and_left_out(tmp_path: Path) -> None:
    for n in range(4):
        write(tmp_path / f"good{n}.png", n)
    write(tmp_path / "one_pixel.png", 9, 1, 1)
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good0.png").read_bytes()[:300])
    data = decode_crops(read_site(tmp_path), SIZE)
    assert [s.key for s in data.crops.samples] == [f"good{n}.png" for n in range(4)]
    assert data.images.shape == (4, 32, 16, 3)
    assert data.images.dtype == np.uint8
    reasons = {d.key: d.reason for d in data.crops.dropped}
    assert set(reasons) == {"one_pixel.png", "empty.jpg", "text.jpg", "cut.png"}
    assert "1x1" in reasons["one_pixel.png"]
    for row, sample in enumerate(data.crops.samples):
        assert np.array_equal(data.images[row], SIZE.load(sample.path.read_bytes()))


def test_crops_are_decoded_as_the_run_says(tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 20, 3), np.uint8))
    (tmp_path / "phone.png").write_bytes(stored_turned(picture, 6, "PNG"))
    (row,) = decode_crops(read_site(tmp_path), SIZE).images
    np.testing.assert_array_equal(row, SIZE.fit(np.asarray(picture)))
    older = SIZE.model_copy(update={"decoder": "exact-1"})
    (row,) = decode_crops(read_site(tmp_path), older).images
    np.testing.assert_array_equal(row, SIZE.fit(np.rot90(np.asarray(picture))))


def test_a_suffix_of_another_type_does_not_count(tmp_path: Path) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (40, 20, 3), np.uint8)
    for name, kind in (("1.jpg", "PNG"), ("2.png", "BMP"), ("3.jpeg", "WEBP")):
        Image.fromarray(picture).save(tmp_path / name, kind, lossless=True)
    for row in decode_crops(read_site(tmp_path), SIZE).images:
        np.testing.assert_array_equal(row, SIZE.fit(picture))


def test_nothing_readable(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(NoImagesError, match=r"none of 1 image .* text.jpg"):
        decode_crops(read_site(tmp_path), SIZE)


def test_equal_names_in_two_cameras_both_count(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1.png", 1)
    write(tmp_path / "b" / "1.png", 2)
    data = decode_crops(read_site(tmp_path), SIZE)
    assert len(data) == 2
    assert not np.array_equal(data.images[0], data.images[1])


def test_fingerprint_follows_names_and_content_only(tmp_path: Path) -> None:
    def fingerprint(folder: str, name: str, seed: int) -> str:
        write(tmp_path / folder / name, seed)
        return decode_crops(read_site(tmp_path / folder), SIZE).crops.fingerprint

    first = fingerprint("x", "1.png", 1)
    assert fingerprint("y", "1.png", 1) == first
    assert fingerprint("z", "2.png", 1) != first
    assert fingerprint("w", "1.png", 2) != first


def test_fingerprint_of_a_folder_is_of_keys_and_content(tmp_path: Path) -> None:
    expected = hashlib.sha256()
    for n, key in enumerate(("a/1.png", "b/1.png")):
        write(tmp_path / key, n)
        content = (tmp_path / key).read_bytes()
        expected.update(key.encode() + b"\0" + hashlib.sha256(content).digest())
    assert decode_crops(read_site(tmp_path), SIZE).crops.fingerprint == expected.hexdigest()


def test_fingerprint_of_a_manifest_follows_what_it_says(tmp_path: Path) -> None:
    for n in range(2):
        write(tmp_path / f"{n}.png", n)

    def fingerprint(second: str, columns: str = "path,camera,track,time") -> str:
        (tmp_path / "manifest.csv").write_text(f"{columns}\n0.png,a,x,1\n1.png,{second}\n")
        return decode_crops(read_site(tmp_path), SIZE).crops.fingerprint

    first = fingerprint("a,x,2")
    assert fingerprint("a,x,2.0") == first, "the same moment"
    assert len({first, fingerprint("b,y,2"), fingerprint("a,y,2"), fingerprint("a,x,3")}) == 4
    assert fingerprint("a,x,") not in (first, fingerprint("a,,"))


@pytest.mark.parametrize("seed", range(4))
def test_forgetting_names_orders_by_content_and_keeps_pixels_with_their_crops(
    tmp_path: Path, seed: int
) -> None:
    for n in range(9):
        write(tmp_path / f"{n}.png", 10 * seed + n)
    write(tmp_path / "again.png", 10 * seed + 3)
    (tmp_path / "4.png").write_text("not an image")
    data = decode_crops(read_site(tmp_path), SIZE, forget_names=True)
    files = [s.path.read_bytes() for s in data.crops.samples]
    assert len(files) == 9
    hashes = [hashlib.sha256(content).hexdigest() for content in files]
    assert hashes == sorted(hashes)
    np.testing.assert_array_equal(data.images, np.stack([SIZE.load(content) for content in files]))


def test_pixels_are_held_once(tmp_path: Path) -> None:
    for n in range(40):
        write(tmp_path / f"{n}.png", n)
    large = Preprocessing(height=256, width=128)
    listing = read_site(tmp_path)
    tracemalloc.start()
    data = decode_crops(listing, large, forget_names=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * data.images.nbytes
