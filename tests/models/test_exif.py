from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from models.exif import jpeg_size, png_chunks, read_directory, read_orientation, turn_upright
from models.image import decode
from tests.support.exif_files import (
    IN_A_FILE,
    UPRIGHT_BY,
    encode,
    exif_block,
    jpeg_with,
    png_with,
    raw_profile,
    webp_with,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 3)).astype(np.uint8)
PICTURE = Image.fromarray(PIXELS)
PREFIX = b"Exif\0\0"
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
)  # fmt: skip


@pytest.mark.parametrize("fmt", IN_A_FILE)
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_orientation_of_both_byte_orders(fmt: str, order: str) -> None:
    for orientation in range(1, 9):
        file = IN_A_FILE[fmt](PICTURE, exif_block(orientation, order=order))
        assert read_orientation(file) == orientation


@pytest.mark.parametrize("fmt", [*IN_A_FILE, "BMP", "TIFF"])
def test_without_exif_a_file_is_upright(fmt: str) -> None:
    assert read_orientation(encode(PICTURE, fmt)) == 1


WRONG = {
    "nothing": b"",
    "orientation 0": exif_block(0),
    "orientation 9": exif_block(9),
    "orientation 65535": exif_block(65535),
    "of type BYTE": exif_block(kind=1),
    "of type ASCII": exif_block(kind=2),
    "of type LONG": exif_block(kind=4),
    "of an unknown type": exif_block(kind=99),
    "of no values": exif_block(count=0),
    "of two values": exif_block(count=2),
    "of values beyond the end": exif_block(count=2**32 - 1),
    "cut in the header": exif_block()[:6],
    "cut in the count": exif_block()[:9],
    "cut in the entry": exif_block()[:20],
    "directory beyond the end": exif_block(start=2**32 - 1),
    "directory in the header": exif_block(start=0),
    "no byte order": b"XX" + exif_block()[2:],
    "mixed byte orders": b"II\0*" + exif_block()[4:],
    "64 KiB of garbage": np.random.default_rng(3).bytes(65_000),
    "garbage as a directory": exif_block()[:8] + b"\xff" * 65_000,
    "a second directory alone": exif_block()[:8] + bytes(2) + struct.pack("<I", 14) + exif_block(),
}


@pytest.mark.parametrize("fmt", IN_A_FILE)
@pytest.mark.parametrize("wrong", WRONG)
def test_damaged_exif_is_upright(fmt: str, wrong: str) -> None:
    file = IN_A_FILE[fmt](PICTURE, WRONG[wrong])
    assert read_orientation(file) == 1
    np.testing.assert_array_equal(decode(file), decode(file, decoder="exact-1"))


def test_directories_in_a_circle_and_values_elsewhere_do_not_matter() -> None:
    block = exif_block(6, before=((256, 4, 2**32 - 1, 0), (271, 2, 40, 2**32 - 1)))
    in_a_circle = block[:-4] + struct.pack("<I", 8)
    assert read_orientation(IN_A_FILE["JPEG"](PICTURE, in_a_circle)) == 6


def test_the_first_entry_decides() -> None:
    for first, expected in (((274, 3, 1, 8), 8), ((274, 3, 1, 9), 1)):
        block = exif_block(6, before=(first,))
        assert read_orientation(IN_A_FILE["PNG"](PICTURE, block)) == expected


def test_a_jpeg_with_several_app1_segments() -> None:
    data = encode(PICTURE, "JPEG")
    xmp = b"http://ns.adobe.com/xap/1.0/\0" + XMP
    one, other = PREFIX + exif_block(6), PREFIX + exif_block(3)
    assert read_orientation(jpeg_with(data, xmp)) == 1
    assert read_orientation(jpeg_with(data, xmp, one)) == 6
    assert read_orientation(jpeg_with(data, one, other, xmp)) == 6
    assert read_orientation(jpeg_with(data, PREFIX + b"garbage", one)) == 1
    assert read_orientation(jpeg_with(data, b"")) == 1


def test_bytes_that_stand_between_the_segments_of_a_jpeg() -> None:
    data = jpeg_with(encode(PICTURE, "JPEG"), PREFIX + exif_block(6))
    first = jpeg_with(data[:2], b"other")
    for between in (b"\xff\xff\xff", b"\x01\x02", b"\xff\x00", b"\xff\x01", b"\xff\xd0"):
        assert read_orientation(first + between + data[2:]) == 6


def test_the_search_for_exif_is_bounded() -> None:
    """Tiny pieces in front of it cost more here than in the libraries that decode."""
    exif = PREFIX + exif_block(6)
    data = jpeg_with(encode(PICTURE, "JPEG"), exif)
    first = jpeg_with(data[:2], b"other")
    for piece in (b"\xff", b"\xff\xd0", b"\x01", b"\xff\x00"):
        few, many = ((piece * (n // len(piece))) for n in (60_000, 70_000))
        assert read_orientation(first + few + data[2:]) == 6
        assert read_orientation(first + many + data[2:]) == 1
    png, webp = encode(PICTURE, "PNG"), webp_with(encode(PICTURE, "WEBP"), exif_block(6))
    for chunks, expected in ((60_000, 6), (70_000, 1)):
        empty = struct.pack(">I4sI", 0, b"teSt", 0) * chunks
        start = png[:33]  # its header
        with_exif = png_with(png, (b"eXIf", exif_block(6)))
        assert read_orientation(start + empty + with_exif[33:]) == expected
        empty = struct.pack("<4sI", b"TEST", 0) * chunks
        assert read_orientation(webp[:12] + webp[12:30] + empty + webp[30:]) == expected


def test_exif_behind_a_jpegs_pixels_or_behind_very_many_segments_is_not_its_own() -> None:
    data, exif = encode(PICTURE, "JPEG"), PREFIX + exif_block(6)
    assert read_orientation(data + jpeg_with(data, exif)) == 1
    assert read_orientation(jpeg_with(data, *[b"\0"] * 200, exif)) == 6
    assert read_orientation(jpeg_with(data, *[b"\0"] * 5000, exif)) == 1


@pytest.mark.parametrize("after_pixels", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_places_of_a_png(after_pixels: bool, packed: bool) -> None:
    data, block = encode(PICTURE, "PNG"), exif_block(8, order=">")
    profile = raw_profile(PREFIX + exif_block(3), packed=packed)
    for chunks, expected in (
        ([(b"eXIf", block)], 8),
        ([(b"eXIf", PREFIX + block)], 8),
        ([profile], 3),
        ([profile, (b"eXIf", block)], 8),
        ([(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)], 1),
    ):
        file = png_with(data, *chunks, after_pixels=after_pixels)
        assert read_orientation(file) == expected
        np.testing.assert_array_equal(decode(file), turn_upright(PIXELS, expected))


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"tEXt", b""),
        (b"tEXt", b"\nexif\n"),
        (b"tEXt", b"\nexif\n 4\nnot hexadecimal\n"),
        (b"tEXt", b"\nexif\n 4\n\xff\xfe\n"),
        (b"zTXt", b""),
        (b"zTXt", b"\0not packed"),
        (b"zTXt", b"\0" + zlib.compress(bytes(1000))),
    ],
)
def test_damaged_text_of_a_png_is_upright(kind: bytes, content: bytes) -> None:
    file = png_with(encode(PICTURE, "PNG"), (kind, b"Raw profile type exif\0" + content))
    assert read_orientation(file) == 1


def test_text_of_a_png_is_not_unpacked_without_end() -> None:
    block = exif_block(before=((271, 2, 1, 0),) * 40_000)
    large = png_with(encode(PICTURE, "PNG"), raw_profile(block, packed=True))
    assert read_orientation(large) == 1


@pytest.mark.parametrize("prefix", [b"", PREFIX])
def test_places_of_a_webp(prefix: bytes) -> None:
    data, exif = encode(PICTURE, "WEBP"), prefix + exif_block(5)
    assert read_orientation(webp_with(data, exif)) == 5
    np.testing.assert_array_equal(decode(webp_with(data, exif)), turn_upright(PIXELS, 5))
    assert read_orientation(webp_with(data, exif + b"\0")) == 5
    assert read_orientation(webp_with(data, exif, announced=False)) == 1
    frames = encode(PICTURE, "WEBP", save_all=True, append_images=[ImageOps.invert(PICTURE)])
    assert read_orientation(webp_with(frames, exif)) == 5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning(orientation: int) -> None:
    turned = turn_upright(PIXELS, orientation)
    method = UPRIGHT_BY.get(orientation)
    expected = PICTURE if method is None else PICTURE.transpose(method)
    np.testing.assert_array_equal(turned, np.asarray(expected))
    assert turned.flags.c_contiguous


@pytest.mark.parametrize("fmt", IN_A_FILE)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_exif_gives_the_pixels_in_one_of_eight_ways(fmt: str, data: st.DataObject) -> None:
    order = data.draw(st.sampled_from("<>"))
    block = bytearray(exif_block(6, order=order, before=((271, 2, 40, 8),)))
    for _ in range(data.draw(st.integers(0, 4))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    block = block[: data.draw(st.integers(0, len(block)))] + data.draw(st.binary(max_size=40))
    file = IN_A_FILE[fmt](PICTURE, bytes(block))
    stored = decode(file, decoder="exact-1")
    ways = [turn_upright(stored, orientation) for orientation in range(1, 9)]
    assert any(np.array_equal(decode(file), way) for way in ways)


@given(st.binary(max_size=200))
def test_any_bytes_have_an_orientation(data: bytes) -> None:
    for magic in (b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"RIFF1234WEBPVP8X"):
        assert 1 <= read_orientation(magic + data) <= 8


def test_entries_of_a_directory() -> None:
    (name, orientation) = read_directory(exif_block(6, order=">", before=((271, 2, 40, 99),)))
    assert (name.tag, name.kind, name.number, name.size) == (271, 2, 40, 40)
    assert (orientation.tag, orientation.value, orientation.size) == (274, 6, 2)
    assert [entry.size for entry in read_directory(exif_block(kind=5, count=3))] == [24]


def test_the_size_of_a_jpeg() -> None:
    for progressive in (False, True):
        assert jpeg_size(encode(PICTURE, "JPEG", progressive=progressive)) == (12, 8)
    assert jpeg_size(encode(PICTURE, "JPEG")[:100]) is None
    assert jpeg_size(b"\xff\xd8\xff\xc0\x00\x04\x08") is None


def test_chunks_of_a_png() -> None:
    data = encode(PICTURE, "PNG")
    kinds = [kind for kind, _, _ in png_chunks(data)]
    assert (kinds[0], kinds[-1]) == (b"IHDR", b"IEND")
    ((_, start, end), *_) = png_chunks(data)
    assert data[start:end] == struct.pack(">IIBBBBB", 8, 12, 8, 2, 0, 0, 0)
