"""Files of `resight cluster`: what is read, what is refused, what is written."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from adapt.clustering.labels.array_files import (
    check_place,
    read_cameras,
    read_features,
    write_labels,
)
from adapt.errors import DataError
from adapt.types import PseudoLabels


def save(path: Path, array: object) -> Path:
    with path.open("wb") as file:
        np.save(file, np.asarray(array))
    return path


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_features_stay_on_disk(tmp_path: Path, dtype: str) -> None:
    wanted = np.arange(12).reshape(4, 3).astype(dtype)
    found = read_features(save(tmp_path / "f.npy", wanted))
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


def test_no_features_are_an_empty_table(tmp_path: Path) -> None:
    assert read_features(save(tmp_path / "f.npy", np.zeros((0, 4)))).shape == (0, 4)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5), r"float64 of shape \(5,\), not floating point of \(N, D\)"),
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\)"),
        (np.zeros((2, 2), int), "int64 of shape"),
        (np.zeros((2, 2), complex), "complex128"),
        (np.array([["a"]]), "<U1"),
        (np.float64(1), r"shape \(\)"),
        (np.array([{}]), "not a .npy file that can be read: text or Python objects"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, array: object, message: str) -> None:
    path = save(tmp_path / "f.npy", array)
    with pytest.raises(DataError, match=message) as raised:
        read_features(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"1 2 3", b"\x93NUMPY", b"\x93NUMPY\x01\x00\x05\x00{", b"PK\x03\x04 torn"],
)
def test_files_that_are_no_array_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"not a .npy file that can be read"):
        read_features(tmp_path / "f.npy")
    with pytest.raises(DataError, match=r"not a .npy file that can be read"):
        read_cameras(tmp_path / "f.npy", 3)


def test_a_torn_absent_or_wrong_file_is_refused(tmp_path: Path) -> None:
    whole = save(tmp_path / "f.npy", np.zeros((100, 4)))
    whole.write_bytes(whole.read_bytes()[:-8])
    for path in (whole, tmp_path / "absent.npy", tmp_path):
        with pytest.raises(DataError, match=r"not a .npy file that can be read"):
            read_features(path)
    np.savez(tmp_path / "several.npz", a=np.zeros((2, 2)), b=np.zeros((2, 2)))
    with pytest.raises(DataError, match="several arrays"):
        read_features(tmp_path / "several.npz")


@pytest.mark.parametrize(
    "names",
    [
        [7, 3, 7, 9],
        np.array([7, 3, 7, 9], np.uint8),
        ["b", "a", "b", "c"],
        [b"b", b"a", b"b", b"c"],
    ],
)
def test_cameras_of_an_array(tmp_path: Path, names: object) -> None:
    codes = read_cameras(save(tmp_path / "c.npy", names), 4)
    assert codes.tolist() == [1, 0, 1, 2]
    assert codes.dtype == np.int64


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n \n"])
def test_cameras_of_a_text(tmp_path: Path, end: str) -> None:
    path = tmp_path / "cameras.txt"
    path.write_bytes(
        (("\r\n" if end == "\r\n" else "\n").join(["tür 2", "gate", "tür 2"]) + end).encode()
    )
    assert read_cameras(path, 3).tolist() == [1, 0, 1]
    path.write_text("\ufeffgate\ngate \n\tgate\n")  # one camera for people, not three
    assert read_cameras(path, 3).tolist() == [0, 0, 0]


def test_two_unicode_forms_of_a_name_are_one_camera(tmp_path: Path) -> None:
    names = ["gate", "e\u0301", "é"]
    (tmp_path / "cameras.txt").write_text("\n".join(names))
    np.save(tmp_path / "cameras.npy", np.array(names))
    for file in ("cameras.txt", "cameras.npy"):
        assert read_cameras(tmp_path / file, 3).tolist() == [0, 1, 1]


def test_without_a_file_there_is_one_camera() -> None:
    assert read_cameras(None, 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize("names", [[1, 2], [1, 2, 3, 4], [[1, 2, 3]], [0.5, 1.5, 2.5]])
def test_cameras_that_do_not_fit_are_refused(tmp_path: Path, names: object) -> None:
    with pytest.raises(DataError, match="but there are 3 features"):
        read_cameras(save(tmp_path / "c.npy", names), 3)


def test_texts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cameras.txt"
    for text in ("", "\n\n", "a\n\n", "a\nb\n", "a\nb\nc\nd"):
        path.write_text(text)
        with pytest.raises(DataError, match="but there are 3 features"):
            read_cameras(path, 3)
    for text in ("a\n\nc\n", "a\n\nb\nc"):
        path.write_text(text)
        with pytest.raises(DataError, match="names no camera in line 2"):
            read_cameras(path, 3)
    path.write_bytes(b"\xff\xfe\x00")
    for unreadable in (path, tmp_path / "absent.txt"):
        with pytest.raises(DataError, match="cannot be read"):
            read_cameras(unreadable, 3)


def test_labels_are_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "labels.npy"
    path.write_bytes(b"older")
    write_labels(path, PseudoLabels(np.array([0, -1, 1]), "a test"))
    assert np.load(path).tolist() == [0, -1, 1]
    assert np.load(path).dtype == np.int64
    assert list(tmp_path.iterdir()) == [path]


def test_labels_without_the_ending_keep_their_name(tmp_path: Path) -> None:
    write_labels(tmp_path / "labels", PseudoLabels(np.array([0]), "a test"))
    assert np.load(tmp_path / "labels").tolist() == [0]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    labels = PseudoLabels(np.array([0]), "a test")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "absent" / "l.npy", tmp_path / "folder"):
        with pytest.raises(DataError, match="cannot be written"):
            write_labels(path, labels)
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_a_place_for_labels_is_checked_before_the_work(tmp_path: Path) -> None:
    features = save(tmp_path / "f.npy", np.zeros((3, 2)))
    check_place(tmp_path / "l.npy", features, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.npy"]
    save(tmp_path / "l.npy", np.zeros(3))
    check_place(tmp_path / "l.npy", features, tmp_path / "absent.npy")
    for folder in (tmp_path, Path(), Path("/")):
        with pytest.raises(DataError, match="it is a folder"):
            check_place(folder, features)
    with pytest.raises(DataError, match="cannot be written: No such file or directory"):
        check_place(tmp_path / "absent" / "l.npy", features)
    link = tmp_path / "link.npy"
    link.symlink_to(features)
    for same in (features, tmp_path / "." / "f.npy", link):
        with pytest.raises(DataError, match="would destroy it"):
            check_place(same, None, features)
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(DataError, match="not an ordinary file"):
            check_place(other, features)
    with pytest.raises(DataError, match="cannot be written: File name too long"):
        check_place(tmp_path / ("l" * 300), features)


def test_a_header_that_promises_more_than_memory_holds(tmp_path: Path) -> None:
    path = tmp_path / "c.npy"
    with path.open("wb") as file:
        header = {"descr": "<i8", "fortran_order": False, "shape": (1 << 45,)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(DataError, match=r"not a .npy file that can be read"):
        read_cameras(path, 3)
