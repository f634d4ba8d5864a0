"""The one way from image bytes to network input, shared by training and serving. No torch.

Decoding is part of a model: other pixels give other embeddings. What `decode` does has a name,
`Decoder`, that every manifest records; a change of the pixels needs a new name.
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
from typing import Literal, cast

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from models.errors import (
    DamagedImageError,
    EmptyImageError,
    ImageTooLargeError,
    ImageTooSmallError,
    UnsupportedImageError,
)
from models.exif import (
    JPEG_MAGIC,
    PNG_MAGIC,
    TIFF_MAGICS,
    jpeg_size,
    png_chunks,
    read_directory,
    read_orientation,
    turn_upright,
)
from models.file_kinds import HEAD, kind_of

MIN_SIDE = 8
"""Smallest height or width in pixels: below this a crop shows nobody."""

DEFAULT_MAX_PIXELS = 4096 * 4096
"""Largest height x width decoded by default (48 MiB of RGB)."""

Decoder = Literal["exact-1", "exact-2"]
"""exact-1: libjpeg-turbo with exact DCT and upsampling; pixels as stored, EXIF ignored; alpha
dropped (of TIFF: over black); 16 bit cut to the upper 8 (TIFF in color: rounded); first page or
frame; color profiles and gamma ignored. exact-2: the same, then turned upright by
`models.exif.read_orientation`; files without an orientation give the same pixels."""

DECODER: Decoder = "exact-2"
"""Of new runs and newly wrapped models. What exists keeps the decoder that it was made with."""

Interpolation = Literal["area", "linear", "cubic"]

_FORMATS = ("PNG", "BMP", "WEBP", "TIFF")
_JPEG_START_OF_SCAN = b"\xff\xda"
_JPEG_MAX_SCANS = 100
"""Encoders write up to a dozen; each scan of a progressive file is work on every pixel."""

_TIFF_ORIENTATION, _TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT = 274, 322, 323
_TIFF_MAX_ENTRIES = 4096
"""Of a directory, as in libtiff."""

_OPENCV_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_SUPPORTED = "send JPEG, PNG, BMP, WebP or TIFF"

# OpenCV and Pillow report bad images on their own; each is already an error of ours. What libpng,
# libjpeg and libtiff inside OpenCV write to stderr passes this by, and cannot be turned off.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


def decode(
    data: bytes, *, decoder: Decoder = DECODER, max_pixels: int = DEFAULT_MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decode one image file.

    Args:
        data: a JPEG, PNG, BMP, WebP or TIFF file; gray, palette, alpha, 1 and 16 bit included.
        decoder: see `Decoder`.
        max_pixels: largest height x width, read from the header before any pixel is decoded.

    Returns:
        (h, w, 3) uint8 RGB, C-contiguous.

    Raises:
        ImageError: a subclass says what is wrong with the bytes.
    """
    if not data:
        raise EmptyImageError("the image has no bytes; check that the file was written completely")
    read = _decode_jpeg if data.startswith(JPEG_MAGIC) else _decode_other
    image = read(data, max_pixels)
    return image if decoder == "exact-1" else turn_upright(image, read_orientation(data))


def _decode_jpeg(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    _check_scans(data)
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError):  # KeyError: of 4:4:1, which it has no name for
        return _decode_odd_jpeg(data, max_pixels)
    _check_size(height, width, max_pixels)
    try:
        return cast(NDArray[np.uint8], simplejpeg.decode_jpeg(data, "RGB"))
    except ValueError as error:
        # Stray bytes between segments do no harm to the pixels; anything else does.
        if "extraneous" in str(error):
            return _decode_by_opencv(data)
        raise DamagedImageError(f"damaged JPEG ({error}); send the crop again") from error


def _decode_odd_jpeg(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """A JPEG of an unusual subsampling, which OpenCV decodes."""
    size = jpeg_size(data)
    if size is None:
        raise UnsupportedImageError(f"not an image that can be read; {_SUPPORTED}")
    _check_size(*size, max_pixels)
    return _decode_by_opencv(data)


def _check_scans(data: bytes) -> None:
    """A small file can hold thousands of scans. Compressed pixels never hold a marker's bytes; a
    few more in metadata are within the limit."""
    scans = data.count(_JPEG_START_OF_SCAN)
    if scans > _JPEG_MAX_SCANS:
        raise DamagedImageError(
            f"JPEG with {scans} scans, more than {_JPEG_MAX_SCANS}; save it as a plain JPEG"
        )


def _decode_other(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    _check_tiff_directory(data)
    _check_header(data, max_pixels)
    _check_png_chunks(data)
    return _decode_by_opencv(data)


def _decode_by_opencv(data: bytes) -> NDArray[np.uint8]:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _OPENCV_FLAGS)
    except cv2.error as error:
        raise DamagedImageError(f"image cannot be decoded ({error.err}); {_SUPPORTED}") from error
    if image is None:
        raise DamagedImageError("truncated or corrupt image; send the crop again")
    return cast(NDArray[np.uint8], image)


def _check_tiff_directory(data: bytes) -> None:
    """Pillow copies the value of every entry: thousands may name the same bytes of the file."""
    if not data.startswith((b"II", b"MM")):
        return
    if not data.startswith(TIFF_MAGICS):
        raise UnsupportedImageError(f"not an image that can be read; {_SUPPORTED}")
    sizes = [entry.size for entry in read_directory(data)]
    if len(sizes) > _TIFF_MAX_ENTRIES or sum(sizes) > len(data):
        raise DamagedImageError(
            f"TIFF whose {len(sizes)} entries state {sum(sizes)} bytes, more than the file; send "
            "a PNG"
        )


def _check_header(data: bytes, max_pixels: int) -> None:
    """Pillow reads headers only: nothing is decompressed before the size is known to be fair."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            tags = image.getexif() if image.format == "TIFF" else {}
            turned = tags.get(_TIFF_ORIENTATION, 1) != 1
            tile = int(tags.get(_TIFF_TILE_WIDTH, 0)) * int(tags.get(_TIFF_TILE_HEIGHT, 0))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLargeError(f"{error}; send the crop, not the whole frame") from error
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error) as error:
        raise UnsupportedImageError(f"{_what_it_is(data)}; {_SUPPORTED}") from error
    _check_size(height, width, max_pixels)
    if tile > max_pixels:  # decoders allocate a whole tile, however small the image
        raise ImageTooLargeError(f"TIFF with tiles of {tile} pixels; send a PNG")
    if turned:  # OpenCV turns TIFF whatever the flags say
        raise UnsupportedImageError("TIFF with an orientation tag; save it upright, or as PNG")


def _what_it_is(data: bytes) -> str:
    kind = kind_of(data[:HEAD])
    return f"{kind.noun}: {kind.remedy}" if kind else "not an image that can be read"


def _check_png_chunks(data: bytes) -> None:
    """OpenCV allocates the length that a chunk states, up to 4 GiB, before it reads the chunk."""
    if not data.startswith(PNG_MAGIC):
        return
    for _, _, end in png_chunks(data):
        if end + 4 > len(data):  # its checksum
            raise DamagedImageError("PNG chunk longer than the file; send the crop again")


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if min(height, width) < MIN_SIDE:
        raise ImageTooSmallError(
            f"image is {width}x{height} pixels; each side needs at least {MIN_SIDE} pixels"
        )
    if height * width > max_pixels:
        raise ImageTooLargeError(
            f"image is {width}x{height} = {height * width} pixels, more than {max_pixels}; "
            "send the crop, not the whole frame"
        )


def resize(
    image: NDArray[np.uint8], *, height: int, width: int, interpolation: Interpolation = "area"
) -> NDArray[np.uint8]:
    """Resize an image, each side on its own (the aspect ratio is not kept).

    "area" (default): a side that shrinks is averaged over the source pixels it covers, a side
    that grows is interpolated linearly; shrinking does not alias, whatever the crop's size.
    "linear" and "cubic": OpenCV's, which alias when shrinking more than twofold; for models
    trained that way elsewhere.

    Args:
        image: (h, w, 3) uint8.
        height, width: target size in pixels.
        interpolation: see above.

    Returns:
        (height, width, 3) uint8, the same array when nothing is to be done.
    """
    if interpolation == "area":
        # cv2.INTER_AREA aliases as soon as one side grows, so the two are separate steps.
        low, high = min(height, image.shape[0]), min(width, image.shape[1])
        return _cv2_resize(_cv2_resize(image, low, high, cv2.INTER_AREA), height, width)
    flag = cv2.INTER_LINEAR if interpolation == "linear" else cv2.INTER_CUBIC
    return _cv2_resize(image, height, width, flag)


def _cv2_resize(
    image: NDArray[np.uint8], height: int, width: int, flag: int = cv2.INTER_LINEAR
) -> NDArray[np.uint8]:
    if image.shape[:2] == (height, width):
        return image
    return cast(NDArray[np.uint8], cv2.resize(image, (width, height), interpolation=flag))


class Preprocessing(BaseModel):
    """How image bytes become the model's input; part of the manifest.

    height, width: input size of the model in pixels.
    interpolation: see `resize`.
    decoder: see `Decoder`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = Field(ge=MIN_SIDE, le=2048)
    width: int = Field(ge=MIN_SIDE, le=2048)
    interpolation: Interpolation = "area"
    decoder: Decoder = DECODER

    def load(self, data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> NDArray[np.uint8]:
        """Image file -> (height, width, 3) uint8 RGB; raises `ImageError`."""
        return self.fit(decode(data, decoder=self.decoder, max_pixels=max_pixels))

    def fit(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB -> (height, width, 3) uint8 RGB."""
        return resize(image, height=self.height, width=self.width, interpolation=self.interpolation)

    def fits(self, other: Preprocessing) -> bool:
        """Whether networks of both take the same input, decoders aside."""
        return self.with_new_decoder() == other.with_new_decoder()

    def with_new_decoder(self) -> Preprocessing:
        """The same for a new model: sizes belong to a network, a decoder to what reads crops."""
        return self.model_copy(update={"decoder": DECODER})
