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
from PIL import Image, ImageCms, ImageOps
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
from tests.support.exif_files import (
    UPRIGHT_BY,
    directory_of_one_value,
    encode,
    png_chunk,
    png_with,
    stored_turned,
)

CELLS = np.random.default_rng(0).integers(0, 256, (8, 4, 3)).astype(np.uint8)
RGB: NDArray[np.uint8] = np.asarray(cv2.resize(CELLS, (24, 40)), np.uint8)
PICTURE = Image.fromarray(RGB)
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims a size and whose pixels are not there."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", pixels)
        + png_chunk(b"IEND", b"")
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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["PNG", "WEBP"])
def test_what_a_phone_stores_is_decoded_upright(fmt: str, orientation: int) -> None:
    stored = stored_turned(PICTURE, orientation, fmt)
    np.testing.assert_array_equal(decode(stored), RGB)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
def test_the_first_decoder_leaves_pixels_as_they_are_stored(fmt: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    file = encode(PICTURE, fmt, exif=exif)
    stored = decode(file, decoder="exact-1")
    np.testing.assert_array_equal(stored, decode(encode(PICTURE, fmt)))
    upright = Image.fromarray(stored).transpose(UPRIGHT_BY[orientation])
    np.testing.assert_array_equal(decode(file), np.asarray(upright))


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_both_decoders_agree_where_no_orientation_is_stored(fmt: str, mode: str) -> None:
    picture = PICTURE.convert("L" if (fmt, mode) == ("JPEG", "RGBA") else mode)
    file = encode(picture, fmt)
    np.testing.assert_array_equal(decode(file, decoder="exact-1"), decode(file))


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "I;16"])
def test_other_modes_are_turned_as_well(mode: str) -> None:
    picture = PICTURE.convert("L").convert(mode) if mode == "LA" else PICTURE.convert(mode)
    stored = decode(stored_turned(picture, 6, "PNG"))
    np.testing.assert_array_equal(stored, decode(encode(picture, "PNG")))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_jpegs_are_turned_as_well(mode: str) -> None:
    stored = decode(stored_turned(PICTURE.convert(mode), 8, "JPEG", quality=98))
    assert stored.shape == RGB.shape
    assert (
        np.abs(stored.astype(np.int16) - np.asarray(PICTURE.convert(mode).convert("RGB"))).mean()
        < 4
    )


def test_a_jpeg_with_stray_bytes_is_turned_once() -> None:
    data = stored_turned(PICTURE, 6, "JPEG", quality=90)
    scan = data.index(b"\xff\xda")
    stray = data[:scan] + b"\x01\x02\x03" + data[scan:]
    assert np.abs(decode(stray).astype(np.int16) - decode(data)).max() <= 1


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
def test_limits_hold_for_both_orders_of_the_sides(fmt: str) -> None:
    smallest = stored_turned(PICTURE.resize((MIN_SIDE, 40)), 6, fmt)
    assert decode(smallest, max_pixels=MIN_SIDE * 40).shape == (40, MIN_SIDE, 3)
    with pytest.raises(ImageTooLargeError, match="320"):
        decode(smallest, max_pixels=MIN_SIDE * 40 - 1)
    for size in ((MIN_SIDE - 1, 40), (40, MIN_SIDE - 1)):
        with pytest.raises(ImageTooSmallError):
            decode(stored_turned(PICTURE.resize(size), 6, fmt))


def test_a_tiff_with_an_orientation_is_refused() -> None:
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


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0heicmif1", "a HEIC image: convert it to JPEG or PNG"),
        (b"/9j/4AAQSkZJRgABAQ", r"text in base64 \(of a JPEG\): decode it"),
        (b"<!DOCTYPE html><title>403</title>", "a web page: the server sent it"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer: fetch the file"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "a video: cut single frames out of it"),
        (b"\0\5\26\7\0\2\0\0Mac OS X        ", r"what macOS notes .* without the `\._`"),
    ],
)
def test_files_that_are_called_jpg_are_named_by_what_they_are(data: bytes, message: str) -> None:
    """From phones, web interfaces and archives, all called `.jpg`."""
    with pytest.raises(UnsupportedImageError, match=message):
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


def test_a_small_tiff_with_huge_tiles_is_refused() -> None:
    with pytest.raises(ImageTooLargeError, match="tiles"):
        decode(tiff_with_tiles(16384))


@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_whose_entries_all_name_the_same_bytes_is_refused(big: bool) -> None:
    fair = directory_of_one_value(3, 100, big=big)
    assert decode(fair).shape == (16, 16, 3)
    bomb = directory_of_one_value(2000, 40_000, big=big)
    with pytest.raises(DamagedImageError, match=r"2009 entries state 8000\d+ bytes, more than"):
        decode(bomb + bytes(40_000))
    with pytest.raises(DamagedImageError, match="4109 entries"):
        decode(directory_of_one_value(4100, 1, big=big))


def test_headers_of_tiff_that_only_some_libraries_know_are_refused() -> None:
    for order, magic in (("<", b"II\0*"), (">", b"MM*\0"), (">", b"MM\0+")):
        data = magic + struct.pack(order + "IH", 8, 1) + bytes(100)
        with pytest.raises(UnsupportedImageError):
            decode(data)


def with_sampling(factors: int, picture: Image.Image = PICTURE) -> bytes:
    """A JPEG whose luminance claims other sampling factors than its pixels were written with."""
    data = bytearray(encode(picture, "JPEG", subsampling=0, quality=95))
    data[data.index(b"\xff\xc0") + 11] = factors
    return bytes(data)


@pytest.mark.parametrize("factors", [0x14, 0x24, 0x31, 0x42])
def test_jpegs_of_rare_subsamplings_are_decoded(factors: int) -> None:
    """4:4:1 (0x14) is a 4:1:1 that was turned without loss. The others are rarer still."""
    assert decode(with_sampling(factors)).shape == RGB.shape
    with pytest.raises(ImageTooLargeError):
        decode(with_sampling(factors), max_pixels=100)
    with pytest.raises(ImageTooSmallError):
        decode(with_sampling(factors, PICTURE.resize((7, 40))))


def test_metadata_that_changes_what_viewers_show_is_ignored() -> None:
    """Gamma, chromaticities, a profile and a transparent color, which OpenCV may begin to apply."""
    for chunk in (
        (b"gAMA", struct.pack(">I", 100_000)),
        (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)),
        (b"cICP", bytes([9, 16, 0, 1])),
        (b"tRNS", struct.pack(">3H", *RGB[0, 0])),
        (b"pHYs", struct.pack(">IIB", 1000, 4000, 1)),
    ):
        np.testing.assert_array_equal(decode(png_with(encode(PICTURE, "PNG"), chunk)), RGB)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for fmt in ("PNG", "WEBP", "TIFF"):
        np.testing.assert_array_equal(decode(encode(PICTURE, fmt, icc_profile=profile)), RGB)
    file = encode(PICTURE, "JPEG", icc_profile=profile)
    np.testing.assert_array_equal(decode(file), decode(encode(PICTURE, "JPEG")))


@pytest.mark.parametrize("fmt", ["PNG", "WEBP", "TIFF"])
def test_of_several_frames_or_pages_the_first_one_counts(fmt: str) -> None:
    more = [ImageOps.invert(PICTURE), PICTURE.rotate(180)]
    file = encode(PICTURE, fmt, save_all=True, append_images=more)
    np.testing.assert_array_equal(decode(file), RGB)


def test_of_an_animated_png_the_first_frame_of_the_animation_counts() -> None:
    moving = ImageOps.invert(PICTURE)
    more = [moving, PICTURE.rotate(180)]
    file = encode(PICTURE, "PNG", save_all=True, append_images=more, default_image=True)
    np.testing.assert_array_equal(decode(file), np.asarray(moving))


def test_of_several_pictures_in_a_jpeg_the_first_one_counts() -> None:
    file = encode(PICTURE, "MPO", save_all=True, append_images=[ImageOps.invert(PICTURE)])
    np.testing.assert_array_equal(decode(file), decode(encode(PICTURE, "JPEG")))


def test_alpha_of_a_tiff_is_over_black() -> None:
    """libtiff multiplies by it; in all other formats alpha is dropped."""
    picture = PICTURE.copy()
    picture.putalpha(128)
    shown = decode(encode(picture, "TIFF")).astype(np.int16)
    assert np.abs(shown - RGB * (128 / 255)).max() <= 1


def test_cmyk_and_ycck_jpegs_are_as_adobe_writes_them() -> None:
    """Inverted, with or without its marker; a file that is not inverted looks like its negative."""
    file = encode(PICTURE.convert("CMYK"), "JPEG", quality=98)
    marker = file.index(b"\xff\xee")
    unmarked = file[:marker] + file[marker + 16 :]
    np.testing.assert_array_equal(decode(unmarked), decode(file))
    transform = file.index(b"Adobe") + 11
    ycck = file[:transform] + b"\2" + file[transform + 1 :]
    reference = np.asarray(Image.open(io.BytesIO(ycck)).convert("RGB"), np.int16)
    assert np.abs(decode(ycck) - reference).mean() < 2


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


def test_preprocessing_decodes_as_it_says() -> None:
    new = Preprocessing(height=32, width=16)
    old = new.model_copy(update={"decoder": "exact-1"})
    file = stored_turned(PICTURE, 6, "PNG")
    np.testing.assert_array_equal(new.load(file), new.fit(RGB))
    np.testing.assert_array_equal(old.load(file), new.fit(decode(file, decoder="exact-1")))
    assert not np.array_equal(new.load(file), old.load(file))
    assert old.with_new_decoder() == new
    assert old.fits(new)
    assert not old.fits(Preprocessing(height=32, width=24))


def test_what_older_versions_wrote_is_read_as_it_was() -> None:
    """The text decides a served model's fingerprint, and so whether its vectors still count."""
    text = '{"height":32,"width":16,"interpolation":"area","decoder":"exact-1"}'
    assert Preprocessing.model_validate_json(text).model_dump_json() == text
    assert Preprocessing(height=32, width=16).decoder == "exact-2"


def test_preprocessing_is_frozen_checked_and_round_trips() -> None:
    preprocessing = Preprocessing(height=32, width=16, interpolation="cubic")
    assert Preprocessing.model_validate_json(preprocessing.model_dump_json()) == preprocessing
    with pytest.raises(ValidationError):
        preprocessing.height = 3  # type: ignore[misc]
    for bad in ({"height": 4}, {"interpolation": "nearest"}, {"decoder": "fast"}, {"crop": 1}):
        with pytest.raises(ValidationError):
            Preprocessing.model_validate({"height": 32, "width": 16} | bad)
