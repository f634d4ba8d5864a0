from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from models.errors import (
    DamagedImageError,
    EmptyImageError,
    ImageError,
    ImageTooLargeError,
    ImageTooSmallError,
    UnsupportedImageError,
)
from models.image import MIN_SIDE, Preprocessing, decode, resize

CELLS = np.random.default_rng(0).integers(0, 256, (8, 4, 3)).astype(np.uint8)
RGB: NDArray[np.uint8] = np.asarray(cv2.resize(CELLS, (24, 40)), np.uint8)
PICTURE = Image.fromarray(RGB)
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
TIFF_LOSSLESS = {"TIFF": {}, "WEBP": {"lossless": True}}


def encode(picture: Image.Image, fmt: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, fmt, **(TIFF_LOSSLESS.get(fmt, {}) | options))
    return buffer.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims a size and whose pixels are not there."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def tiff_with_tiles(side: int) -> bytes:
    """A gray 16 x 16 TIFF of one tile of side x side, whose pixels are not there."""
    values = {
        256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 277: 1, 322: side, 323: side, 324: 8, 325: side
    }  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    return b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + bytes(4)


def jpeg_claiming(width: int, height: int) -> bytes:
    data = bytearray(encode(PICTURE, "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "WEBP", "TIFF"])
def test_lossless_formats_give_the_exact_pixels(fmt: str) -> None:
    image = decode(encode(PICTURE, fmt))
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, RGB)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_is_decoded_exactly(subsampling: str, progressive: bool) -> None:
    data = encode(PICTURE, "JPEG", subsampling=subsampling, progressive=progressive, quality=80)
    reference = np.asarray(Image.open(io.BytesIO(data)), np.int16)  # libjpeg-turbo, slow DCT
    assert np.abs(decode(data) - reference).max() <= 1


def test_channel_order_is_rgb() -> None:
    red = Image.new("RGB", (16, 16), (255, 0, 0))
    for fmt in FORMATS:
        assert decode(encode(red, fmt))[8, 8].argmax() == 0, fmt


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA"])
def test_other_png_modes_become_rgb(mode: str) -> None:
    picture = PICTURE.convert("L").convert(mode) if mode == "LA" else PICTURE.convert(mode)
    if mode == "RGBA":
        picture.putalpha(7)
    opaque = picture.convert("RGBA").convert("RGB")  # alpha is dropped, not blended
    np.testing.assert_array_equal(decode(encode(picture, "PNG")), np.asarray(opaque))


def test_gray_jpeg_becomes_rgb() -> None:
    image = decode(encode(PICTURE.convert("L"), "JPEG", quality=95))
    assert image.shape == RGB.shape
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


def test_cmyk_jpeg_becomes_rgb() -> None:
    image = decode(encode(PICTURE.convert("CMYK"), "JPEG", quality=98)).astype(np.int16)
    assert np.abs(image - RGB).mean() < 4


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_png_keeps_the_upper_byte(channels: int) -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (16, 12, channels)).astype(np.uint16)
    data = cv2.imencode(".png", deep)[1].tobytes()
    expected = np.broadcast_to(deep[..., ::-1] >> 8, (16, 12, 3))
    np.testing.assert_array_equal(decode(data), expected)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_ignored(fmt: str) -> None:
    exif = Image.Exif()
    exif[274] = 6
    turned = decode(encode(PICTURE, fmt, exif=exif))
    np.testing.assert_array_equal(turned, decode(encode(PICTURE, fmt)))


def testtiff_with_orientation_is_refused() -> None:
    exif = Image.Exif()
    exif[274] = 3
    with pytest.raises(UnsupportedImageError, match="upright"):
        decode(encode(PICTURE, "TIFF", exif=exif))


def test_stray_bytes_in_a_jpeg_do_no_harm() -> None:
    data = encode(PICTURE, "JPEG", quality=90)
    scan = data.index(b"\xff\xda")
    stray = data[:scan] + b"\x01\x02\x03" + data[scan:]
    difference = np.abs(decode(stray).astype(np.int16) - decode(data))
    assert difference.max() <= 1


def test_empty() -> None:
    with pytest.raises(EmptyImageError):
        decode(b"")


@pytest.mark.parametrize(
    "data",
    [b"hello", b"<svg></svg>", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF0000WEBP", b"BM"],
)
def test_not_an_image(data: bytes) -> None:
    with pytest.raises(UnsupportedImageError, match="send JPEG"):
        decode(data)


def test_gif_is_not_supported() -> None:
    with pytest.raises(UnsupportedImageError):
        decode(encode(PICTURE, "GIF"))


@pytest.mark.parametrize("fmt", FORMATS)
@settings(max_examples=15)
@given(share=st.floats(0.02, 0.999))
def test_truncated(fmt: str, share: float) -> None:
    data = encode(PICTURE, fmt)
    with pytest.raises(ImageError):
        decode(data[: int(len(data) * share)])


def test_truncated_jpeg_is_called_damaged() -> None:
    data = encode(PICTURE, "JPEG")
    with pytest.raises(DamagedImageError, match="again"):
        decode(data[: len(data) * 3 // 4])


def test_png_with_a_wrong_checksum_is_damaged() -> None:
    data = bytearray(encode(PICTURE, "PNG"))
    data[len(data) // 2] ^= 0x55
    with pytest.raises(DamagedImageError):
        decode(bytes(data))


@pytest.mark.parametrize("fmt", FORMATS)
@settings(max_examples=40)
@given(data=st.data())
def test_any_damage_gives_a_picture_or_a_typed_error(fmt: str, data: st.DataObject) -> None:
    content = bytearray(encode(PICTURE, fmt))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode(bytes(content), max_pixels=10_000)
    except ImageError:
        return
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.shape[0] * image.shape[1] <= 10_000


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (MIN_SIDE - 1, 40), (40, MIN_SIDE - 1)])
def test_too_small_names_the_minimum(fmt: str, size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooSmallError, match="at least 8"):
        decode(encode(PICTURE.resize(size), fmt))


def test_the_smallest_size_passes() -> None:
    assert decode(encode(PICTURE.resize((MIN_SIDE, MIN_SIDE)), "JPEG")).shape == (8, 8, 3)


@pytest.mark.parametrize(
    "bomb", [png_claiming(60_000, 60_000), png_claiming(9000, 9000), jpeg_claiming(65_000, 65_000)]
)
def test_bombs_are_refused_by_their_header(bomb: bytes) -> None:
    # The pixels are not even there: a decoder that had looked at them would call it damaged.
    with pytest.raises(ImageTooLargeError):
        decode(bomb)


def with_scans(data: bytes, count: int) -> bytes:
    """A progressive JPEG with its last scan repeated until there are `count`."""
    last = data.rfind(b"\xff\xda")
    more = count - data.count(b"\xff\xda")
    return data[:-2] + data[last:-2] * more + data[-2:]


def test_a_jpeg_of_very_many_scans_is_refused_before_they_are_decoded() -> None:
    gray = encode(Image.new("L", (64, 128)), "JPEG", progressive=True)
    with pytest.raises(DamagedImageError, match="101 scans"):
        decode(with_scans(gray, 101))


def test_a_png_chunk_that_claims_gigabytes_is_refused_before_room_is_made() -> None:
    data = bytearray(encode(PICTURE, "PNG"))
    length = data.index(b"IDAT") - 4
    data[length : length + 4] = struct.pack(">I", 0x7FFFFFF0)
    with pytest.raises(DamagedImageError, match="chunk longer"):
        decode(bytes(data))


def test_a_smalltiff_with_huge_tiles_is_refused() -> None:
    with pytest.raises(ImageTooLargeError, match="tiles"):
        decode(tiff_with_tiles(16384))


def tiff_with(tag: int, *, count: int, value: int) -> bytes:
    """A TIFF with one entry of its directory changed."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(file, "TIFF")
    data = bytearray(file.getvalue())
    (directory,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, directory)
    for at in range(directory + 2, directory + 2 + 12 * entries, 12):
        if struct.unpack_from("<H", data, at) == (tag,):
            struct.pack_into("<II", data, at + 4, count, value)
            return bytes(data)
    raise AssertionError(f"no tag {tag}")


@pytest.mark.parametrize(
    "damaged",
    [
        tiff_with(259, count=2, value=1),  # a warning of Pillow: too many entries
        tiff_with(259, count=2**20, value=1),  # and one of a truncated file
        tiff_with(277, count=1, value=2048),  # its log: too many samples per pixel
        png_claiming(10_000, 10_000),  # its warning of a bomb
    ],
    ids=["entries", "truncated", "samples", "bomb"],
)
def test_bad_images_print_nothing(damaged: bytes, tmp_path: Path) -> None:
    """In a process of its own: pytest takes warnings and logs away from stderr."""
    file = tmp_path / "image"
    file.write_bytes(damaged)
    code = """
import sys, pathlib
from models.errors import ImageError
from models.image import decode
try:
    decode(pathlib.Path(sys.argv[1]).read_bytes())
except ImageError as error:
    print(error.reason)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, file], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""


@pytest.mark.parametrize("fmt", FORMATS)
def test_max_pixels_is_exact(fmt: str) -> None:
    data = encode(PICTURE, fmt)
    decode(data, max_pixels=24 * 40)
    with pytest.raises(ImageTooLargeError, match="960"):
        decode(data, max_pixels=24 * 40 - 1)


def test_area_shrinks_to_block_means() -> None:
    image = np.random.default_rng(2).integers(0, 256, (8, 6, 3)).astype(np.uint8)
    means = image.reshape(4, 2, 3, 2, 3).mean(axis=(1, 3))
    assert np.abs(resize(image, height=4, width=3) - means).max() <= 0.5


def stripes(height: int, width: int) -> NDArray[np.uint8]:
    rows = (np.arange(height) % 2 * 255).astype(np.uint8)
    return np.broadcast_to(rows[:, None, None], (height, width, 3)).copy()


def test_area_does_not_alias_even_where_the_other_side_grows() -> None:
    small = resize(stripes(64, 8), height=16, width=20)
    assert small.shape == (16, 20, 3)
    assert np.abs(small.astype(int) - 127).max() <= 1
    aliased = resize(stripes(66, 8), height=22, width=20, interpolation="linear")
    assert np.abs(aliased.astype(int) - 127).max() > 50  # why "area" is the default


def test_growing_is_linear() -> None:
    expected = cv2.resize(RGB, (48, 80), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(resize(RGB, height=80, width=48), expected)


def test_cubic_is_opencvs() -> None:
    expected = cv2.resize(RGB, (16, 32), interpolation=cv2.INTER_CUBIC)
    got = resize(RGB, height=32, width=16, interpolation="cubic")
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("interpolation", ["area", "linear", "cubic"])
def test_same_size_changes_nothing(interpolation: Any) -> None:
    same = resize(RGB, height=40, width=24, interpolation=interpolation)
    np.testing.assert_array_equal(same, RGB)


def test_preprocessing_loads_to_its_size() -> None:
    preprocessing = Preprocessing(height=32, width=16)
    image = preprocessing.load(encode(PICTURE, "PNG"))
    np.testing.assert_array_equal(image, resize(RGB, height=32, width=16))
    with pytest.raises(ImageTooLargeError):
        preprocessing.load(encode(PICTURE, "PNG"), max_pixels=100)


def test_preprocessing_is_frozen_checked_and_round_trips() -> None:
    preprocessing = Preprocessing(height=32, width=16, interpolation="cubic")
    assert Preprocessing.model_validate_json(preprocessing.model_dump_json()) == preprocessing
    with pytest.raises(ValidationError):
        preprocessing.height = 3  # type: ignore[misc]
    for bad in ({"height": 4}, {"interpolation": "nearest"}, {"decoder": "fast"}, {"crop": 1}):
        with pytest.raises(ValidationError):
            Preprocessing.model_validate({"height": 32, "width": 16} | bad)
