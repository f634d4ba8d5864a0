"""Image files with EXIF in all the places where programs put it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

from PIL import Image

Turn = Image.Transpose
UPRIGHT_BY = {
    2: Turn.FLIP_LEFT_RIGHT,
    3: Turn.ROTATE_180,
    4: Turn.FLIP_TOP_BOTTOM,
    5: Turn.TRANSPOSE,
    6: Turn.ROTATE_270,
    7: Turn.TRANSVERSE,
    8: Turn.ROTATE_90,
}
"""Orientation -> what turns the stored picture upright, as the EXIF standard draws it."""

STORED_BY = UPRIGHT_BY | {6: Turn.ROTATE_90, 8: Turn.ROTATE_270}
"""Orientation -> what turns an upright picture into the one that is stored."""


def encode(picture: Image.Image, fmt: str, **options: Any) -> bytes:
    """A file; WebP without loss."""
    buffer = io.BytesIO()
    picture.save(buffer, fmt, **({"lossless": True} if fmt == "WEBP" else {}) | options)
    return buffer.getvalue()


def stored_turned(picture: Image.Image, orientation: int, fmt: str, **options: Any) -> bytes:
    """A file that shows the picture upright if its orientation is honored."""
    if orientation in STORED_BY:
        picture = picture.transpose(STORED_BY[orientation])
    exif = Image.Exif()
    exif[274] = orientation
    return encode(picture, fmt, exif=exif, **options)


def exif_block(
    orientation: int = 6,
    *,
    order: str = "<",
    kind: int = 3,
    count: int = 1,
    before: tuple[tuple[int, int, int, int], ...] = (),
    start: int = 8,
) -> bytes:
    """EXIF of one directory. before: entries (tag, kind, count, value) in front."""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    entries = b"".join(struct.pack(order + "HHII", *entry) for entry in before)
    entries += struct.pack(order + "HHIHxx", 274, kind, count, orientation)
    head = magic + struct.pack(order + "I", start)
    return head + struct.pack(order + "H", len(before) + 1) + entries + bytes(4)


def jpeg_with(data: bytes, *segments: bytes) -> bytes:
    """A JPEG with APP1 segments in front of all others."""
    framed = (b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body for body in segments)
    return data[:2] + b"".join(framed) + data[2:]


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Framed."""
    checksum = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + checksum


def png_with(data: bytes, *chunks: tuple[bytes, bytes], after_pixels: bool = False) -> bytes:
    """A PNG with chunks (kind, content) behind its header, or in front of its end."""
    place = len(data) - 12 if after_pixels else 33
    return data[:place] + b"".join(png_chunk(*chunk) for chunk in chunks) + data[place:]


def raw_profile(exif: bytes, *, packed: bool = False) -> tuple[bytes, bytes]:
    """A PNG's text chunk as ImageMagick wrote EXIF before PNG had a chunk for it."""
    digits = exif.hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    text = f"\nexif\n{len(exif):8d}\n{lines}\n".encode()
    name = b"Raw profile type exif\0"
    return (b"zTXt", name + b"\0" + zlib.compress(text)) if packed else (b"tEXt", name + text)


def webp_with(data: bytes, exif: bytes, *, announced: bool = True) -> bytes:
    """An extended WebP with EXIF in front of its pixels. announced: its header says so."""
    if data[12:16] != b"VP8X":
        with Image.open(io.BytesIO(data)) as image:
            size = b"".join(struct.pack("<I", side - 1)[:3] for side in image.size)
        data = data[:12] + b"VP8X" + struct.pack("<I", 10) + bytes(4) + size + data[12:]
    flags = (data[20] & ~0x08) | (0x08 if announced else 0)
    chunk = b"EXIF" + struct.pack("<I", len(exif)) + exif + bytes(len(exif) % 2)
    body = b"WEBP" + data[12:20] + bytes([flags]) + data[21:30] + chunk + data[30:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


IN_A_FILE: dict[str, Callable[[Image.Image, bytes], bytes]] = {
    "JPEG": lambda picture, exif: jpeg_with(encode(picture, "JPEG"), b"Exif\0\0" + exif),
    "PNG": lambda picture, exif: png_with(encode(picture, "PNG"), (b"eXIf", exif)),
    "WEBP": lambda picture, exif: webp_with(encode(picture, "WEBP"), exif),
}
"""Format -> what puts EXIF into a file of a picture."""


def directory_of_one_value(entries: int, count: int, *, big: bool = False) -> bytes:
    """A gray TIFF of 16 x 16 whose many entries all name the start of the file as their value."""
    order, head = ("<HHQQ", struct.pack("<4sHHQ", b"II+\0", 8, 0, 272)) if big else (
        "<HHII", struct.pack("<4sI", b"II*\0", 264)
    )  # fmt: skip
    needed = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 273: len(head), 277: 1, 278: 16, 279: 256}
    rows = [struct.pack(order, tag, 4, 1, value) for tag, value in needed.items()]
    rows += [struct.pack(order, 40_000 + row, 1, count, 0) for row in range(entries)]
    number = struct.pack("<Q" if big else "<H", len(rows))
    return head + bytes(256) + number + b"".join(rows) + bytes(8)
