"""What a file is that was taken for another: by its first bytes, for errors that name it."""

from __future__ import annotations

from dataclasses import dataclass

HEAD = 512
"""Bytes of a file's beginning that `kind_of` looks at."""

_UNPACK = "unpack it and give the file inside"
_SOURCE = "give the file that it was made from"
_PICTURE = "convert it to JPEG or PNG"
_DECODE = "decode it to bytes first"
_FRAME = "cut single frames out of it"


@dataclass(frozen=True, slots=True)
class FileKind:
    """noun: such as "a web page". remedy: what to do about it, an imperative."""

    noun: str
    remedy: str


_TEXTS = (
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the file with `git lfs pull`"),
    (b"<svg", "an SVG drawing", _PICTURE),
    (
        b"<",
        "a web page",
        "the server sent it in place of the file; download the file in a browser",
    ),
    (b"data:", "text in base64 (a data URL)", _DECODE),
    (b"/9j/", "text in base64 (of a JPEG)", _DECODE),
    (b"ivborw0kggo", "text in base64 (of a PNG)", _DECODE),
)
"""How a text begins in lower case; the first that fits counts."""

_BINARIES = (
    (0, b"\x89HDF", "an HDF5 file", "convert it with the framework that wrote it"),
    (0, b"\x1f\x8b", "a gzip archive", _UNPACK),
    (0, b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (0, b"Rar!", "a rar archive", _UNPACK),
    (0, b"ftrt", "a TensorRT engine", _SOURCE),
    (0, b"ptrt", "a TensorRT engine", _SOURCE),
    (4, b"ORTM", "a model in ONNX Runtime's own format", _SOURCE),
    (4, b"TFL3", "a TensorFlow Lite model", _SOURCE),
    (0, b"GIF8", "a GIF image", _PICTURE),
    (4, b"ftyphei", "a HEIC image", _PICTURE),
    (4, b"ftyphev", "a HEIC image", _PICTURE),
    (4, b"ftypmif1", "a HEIC image", _PICTURE),
    (4, b"ftypmsf1", "a HEIC image", _PICTURE),
    (4, b"ftypavi", "an AVIF image", _PICTURE),
    (4, b"ftyp", "a video", _FRAME),
    (8, b"AVI ", "a video", _FRAME),
    (0, b"\x1aE\xdf\xa3", "a video", _FRAME),
    (4, b"jP  ", "a JPEG 2000 image", _PICTURE),
    (4, b"JXL ", "a JPEG XL image", _PICTURE),
    (0, b"\xff\n", "a JPEG XL image", _PICTURE),
    (0, b"8BPS", "a Photoshop document", _PICTURE),
    (0, b"%PDF", "a PDF document", "save its pictures as JPEG or PNG"),
    (0, b"\x93NUMPY", "a NumPy array", "save its pictures as JPEG or PNG"),
    (
        *(0, b"\0\5\26\7", "what macOS notes about another file (AppleDouble)"),
        "give the file of that name without the `._` in front",
    ),
)
"""Where a mark is, the mark, what it says; the first that fits counts."""


_SUFFIXES = {
    ".caffemodel": FileKind("a Caffe model", _SOURCE),
    ".engine": FileKind("a TensorRT engine", _SOURCE),
    ".etlt": FileKind("an encrypted model of NVIDIA TAO", "export it to ONNX with TAO"),
    ".pb": FileKind("a TensorFlow graph", "convert it to ONNX with tf2onnx"),
    ".tlt": FileKind("an encrypted model of NVIDIA TAO", "export it to ONNX with TAO"),
    ".uff": FileKind("a graph in TensorRT's old format UFF", _SOURCE),
}
"""Models whose bytes have no mark."""


def kind_of(head: bytes, suffix: str = "") -> FileKind | None:
    """The kind of a file that is neither weights, an ONNX model nor an image that is decoded.

    head: its first bytes, `HEAD` or more. suffix: of its name, which counts where the bytes tell
    nothing. None where nothing is known about it.
    """
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<?xml") and b"<net" in text:
        return FileKind("a graph of OpenVINO", _SOURCE)
    for begins, noun, remedy in _TEXTS:
        if text.startswith(begins):
            return FileKind(noun, remedy)
    for start, mark, noun, remedy in _BINARIES:
        if head.startswith(mark, start):
            return FileKind(noun, remedy)
    return _SUFFIXES.get(suffix.lower())
