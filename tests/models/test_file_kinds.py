"""Files of other kinds are known by their first bytes."""

from __future__ import annotations

import base64

import pytest

from models.file_kinds import kind_of


@pytest.mark.parametrize(
    ("head", "noun"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (b"\xef\xbb\xbf\r\n<!DOCTYPE html>", "a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", "a web page"),
        (b'<?xml version="1.0"?>\n<net name="osnet" version="11">', "a graph of OpenVINO"),
        (b"<svg xmlns=", "an SVG drawing"),
        (base64.b64encode(b"\xff\xd8\xff\xe0\0\x10JFIF"), "text in base64 (of a JPEG)"),
        (base64.b64encode(b"\x89PNG\r\n\x1a\n"), "text in base64 (of a PNG)"),
        (b"data:image/jpeg;base64,/9j/", "text in base64 (a data URL)"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC image"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0", "a HEIC image"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "an AVIF image"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "a video"),
        (b"RIFF\0\0\0\0AVI LIST", "a video"),
        (b"\0\0\0\x0cjP  \r\n", "a JPEG 2000 image"),
        (b"\0\5\26\7\0\2\0\0Mac OS X", "what macOS notes about another file (AppleDouble)"),
        (b"\x0c\0\0\0ORTM", "a model in ONNX Runtime's own format"),
        (b"\x1c\0\0\0TFL3", "a TensorFlow Lite model"),
        (b"ftrt", "a TensorRT engine"),
        (b"ptrt", "a TensorRT engine"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_kinds(head: bytes, noun: str) -> None:
    kind = kind_of(head)
    assert kind is not None
    assert kind.noun == noun
    assert kind.remedy


@pytest.mark.parametrize(
    "head",
    [
        *(b"", b"\xff\xd8\xff\xe0\0\x10JFIF", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8 "),
        *(b"BM", b"II*\0", b"\x08\x08\x12\x07pytorch", b"PK\x03\x04", b"\x80\x02}q"),
    ],
)
def test_what_resight_reads_is_no_other_kind(head: bytes) -> None:
    assert kind_of(head) is None


def test_a_suffix_counts_where_the_bytes_tell_nothing() -> None:
    for suffix, noun in (
        (".PB", "a TensorFlow graph"),
        (".etlt", "an encrypted model of NVIDIA TAO"),
    ):
        kind = kind_of(b"\n\x90\1", suffix)
        assert kind is not None
        assert kind.noun == noun
    page = kind_of(b"<html>", ".pb")
    assert page is not None
    assert page.noun == "a web page"
    assert kind_of(b"\n\x90\1", ".pth") is None
