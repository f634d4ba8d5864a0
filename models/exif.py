"""Orientation of an image file, from its EXIF; and what has to be known before others read a file.

No torch. Read here, not by Pillow or OpenCV. Pillow copies the value of every entry of a directory:
a file of 1 MB can take 40 GB. OpenCV looks for EXIF in fewer places, and what decides the pixels
must not vary with the version of a library (`models.image.DECODER`).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

UPRIGHT = 1
"""The orientation of a file that says none."""

_ORIENTATION, _SHORT = 274, 3
_PREFIX = b"Exif\0\0"
_RAW_PROFILE = b"Raw profile type exif"
_MAX_RAW_PROFILE = 256 * 1024
"""Bytes of text that are unpacked: 64 KiB of EXIF as hexadecimal digits, with ends of lines."""

_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
"""Of a segment. Before it may lie fill bytes, strays and markers without content."""

_JPEG_MAX_BETWEEN = 64 * 1024
"""Bytes between segments in all; libjpeg skips any number of them, this reader is slower."""

_JPEG_APP1 = 0xE1
_JPEG_PIXELS = {0xD9, 0xDA}  # end of image, start of scan
_JPEG_MAX_SEGMENTS = 1000
"""Before the pixels. Files have some ten, with the largest color profiles 255 more."""
_JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_MAX_CHUNKS = 64 * 1024
"""Of a PNG or WebP file, that are looked at."""

_PNG_FRAME = 12  # length, kind and checksum
_WEBP_HAS_EXIF = 0x08

_TIFF_LAYOUTS = {
    b"II*\0": ("<", "I", 4, "H", "HHIHxx"),
    b"MM\0*": (">", "I", 4, "H", "HHIHxx"),
    b"II+\0": ("<", "Q", 8, "Q", "HHQHxxxxxx"),
}
"""Header -> byte order, type and place of the offset, type of the count, one entry."""

TIFF_MAGICS = tuple(_TIFF_LAYOUTS)
"""Both byte orders, and BigTIFF, which Pillow reads in one of them."""

_TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
               16: 8, 17: 8, 18: 8}  # fmt: skip


class TiffEntry(NamedTuple):
    """One entry of a directory.

    number: of values, each of a kind. value: the first 16 bits, where the values are not elsewhere.
    """

    tag: int
    kind: int
    number: int
    value: int

    @property
    def size(self) -> int:
        """Bytes of its value."""
        return self.number * _TIFF_BYTES.get(self.kind, 0)


def read_orientation(data: bytes) -> int:
    """Orientation of a JPEG, PNG or WebP file, 1 to 8 as EXIF numbers them.

    It is the first entry 274 in the first directory of the file's EXIF, if that is one SHORT of 1
    to 8. In all other cases it is 1, upright: no EXIF, or damaged EXIF, or XMP alone.
    """
    for entry in read_directory(_exif_of(data)):
        if entry.tag == _ORIENTATION:
            known = entry.kind == _SHORT and entry.number == 1 and 1 <= entry.value <= 8
            return entry.value if known else UPRIGHT
    return UPRIGHT


def turn_upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo an orientation.

    image: (h, w, 3) uint8 as stored. orientation: see `read_orientation`.
    Returns (h, w, 3), or (w, h, 3) from orientation 5 on, C-contiguous; the same array if upright.
    """
    if orientation == UPRIGHT:
        return image
    turned = image.transpose(1, 0, 2) if orientation >= 5 else image
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(turned[::rows, ::columns])


def read_directory(tiff: bytes) -> Iterator[TiffEntry]:
    """The entries of the first directory of TIFF or EXIF; those that are there, if it is cut."""
    if tiff[:4] not in _TIFF_LAYOUTS:
        return
    order, offset, place, number, layout = _TIFF_LAYOUTS[tiff[:4]]
    (start,) = _unpack(order + offset, tiff[place:]) or (len(tiff),)
    (count,) = _unpack(order + number, tiff[start:]) or (0,)
    entry = struct.Struct(order + layout)
    start += struct.calcsize(number)
    whole = min(count, (len(tiff) - start) // entry.size)
    for fields in entry.iter_unpack(tiff[start : start + whole * entry.size]):
        yield TiffEntry(*fields)


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width in a JPEG's header; None if there are none."""
    for marker, body in islice(_jpeg_segments(data), _JPEG_MAX_SEGMENTS):
        if marker in _JPEG_FRAMES and len(body) >= 5:
            height, width = struct.unpack_from(">xHH", body)
            return height, width
    return None


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the content of each chunk; the last may end beyond the file."""
    position = len(PNG_MAGIC)
    while position + _PNG_FRAME <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        start = position + 8
        yield kind, start, start + length
        position = start + length + 4


def _exif_of(data: bytes) -> bytes:
    """The EXIF of a file from its byte order on; empty if there is none."""
    if data.startswith(JPEG_MAGIC):
        exif = _exif_of_jpeg(data)
    elif data.startswith(PNG_MAGIC):
        exif = _exif_of_png(data)
    elif data.startswith(b"RIFF") and data[8:16] == b"WEBPVP8X":
        exif = _exif_of_webp(data)
    else:
        return b""
    return exif.removeprefix(_PREFIX)


def _exif_of_jpeg(data: bytes) -> bytes:
    if _PREFIX not in data:  # cheaper than to walk, and of nearly all crops enough
        return b""
    for marker, body in islice(_jpeg_segments(data), _JPEG_MAX_SEGMENTS):
        if marker == _JPEG_APP1 and body.startswith(_PREFIX):
            return body
    return b""


def _exif_of_png(data: bytes) -> bytes:
    """The chunk of today, before or after the pixels, rather than the text of old programs."""
    texts = []
    for kind, start, end in islice(png_chunks(data), _MAX_CHUNKS):
        if kind == b"eXIf":
            return data[start:end]
        if kind in (b"tEXt", b"zTXt") and data.startswith(_RAW_PROFILE + b"\0", start):
            texts.append((kind, data[start + len(_RAW_PROFILE) + 1 : end]))
    return _raw_profile(*texts[0]) if texts else b""


def _raw_profile(kind: bytes, text: bytes) -> bytes:
    """EXIF as text: an empty line, its name, its length, and hexadecimal digits."""
    try:
        if kind == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], _MAX_RAW_PROFILE)
        return bytes.fromhex(text.split(b"\n", 3)[3].decode("ascii"))
    except (zlib.error, ValueError, IndexError):
        return b""


def _exif_of_webp(data: bytes) -> bytes:
    """The chunk, where the header announces one: readers ignore it else."""
    if not (_unpack("<20xB", data) or (0,))[0] & _WEBP_HAS_EXIF:
        return b""
    position = 12
    for _ in range(_MAX_CHUNKS):
        if position + 8 > len(data):
            break
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            return data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2
    return b""


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of each segment before the pixels."""
    position, between = 2, _JPEG_MAX_BETWEEN
    while found := _JPEG_MARKER.search(data, position, position + between + 2):
        between -= found.start() - position
        marker, position = found[1][0], found.end()
        if marker in _JPEG_PIXELS:
            return
        (length,) = _unpack(">H", data[position : position + 2]) or (0,)
        yield marker, data[position + 2 : position + length]
        position += max(length, 2)


def _unpack(layout: str, data: bytes) -> tuple[int, ...] | None:
    """The numbers at the start of some bytes; None if there are too few."""
    if len(data) < struct.calcsize(layout):
        return None
    return struct.unpack_from(layout, data)
