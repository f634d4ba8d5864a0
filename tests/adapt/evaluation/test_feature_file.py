"""Reading features of any model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from adapt.errors import DataError
from adapt.evaluation.feature_file import KEYS, load_feature_file


def arrays(**changed: Any) -> dict[str, NDArray[Any]]:
    values: dict[str, Any] = {
        "query_features": np.ones((2, 3), np.float32),
        "query_ids": [4, 7],
        "query_cameras": [0, 1],
        "gallery_features": np.ones((3, 3), np.float32),
        "gallery_ids": [7, -1, 4],
        "gallery_cameras": [1, 0, 2],
    }
    return {name: np.asarray(value) for name, value in (values | changed).items()}


def save(folder: Path, values: dict[str, NDArray[Any]]) -> Path:
    path = folder / "features.npz"
    np.savez(path, **values)  # type: ignore[arg-type]
    return path


def test_numbers_come_back_as_they_are(tmp_path: Path) -> None:
    values = arrays()
    found = load_feature_file(save(tmp_path, values))
    for name in KEYS:
        np.testing.assert_array_equal(getattr(found, name), values[name])
    assert found.query_ids.dtype == np.int64


def test_strings_get_one_numbering_for_both_sets(tmp_path: Path) -> None:
    values = arrays(
        query_ids=["anna", "bert"],
        gallery_ids=[b"bert", b"-1", b"anna"],
        query_cameras=["c2", "c9"],
        gallery_cameras=["c1", "c2", "c3"],
    )
    found = load_feature_file(save(tmp_path, values))
    anna, bert = found.query_ids.tolist()
    assert found.gallery_ids.tolist() == [bert, -1, anna]
    assert min(anna, bert) >= 0
    assert anna != bert
    assert found.query_cameras[0] == found.gallery_cameras[1]
    codes = {*found.query_cameras.tolist(), *found.gallery_cameras.tolist()}
    assert len(codes) == 4


def test_two_unicode_forms_of_a_string_are_one(tmp_path: Path) -> None:
    values = arrays(
        query_ids=["é", "bert"],
        gallery_ids=["bert", "e\u0301", "-1"],
        query_cameras=["e\u0301", "c"],
        gallery_cameras=["c", "é", "c"],
    )
    found = load_feature_file(save(tmp_path, values))
    assert found.query_ids[0] == found.gallery_ids[1]
    assert found.query_cameras[0] == found.gallery_cameras[1]


def test_whole_floats_and_integer_features_are_numbers(tmp_path: Path) -> None:
    values = arrays(query_ids=[4.0, 7.0], gallery_features=np.ones((3, 3), np.uint8))
    found = load_feature_file(save(tmp_path, values))
    assert found.query_ids.tolist() == [4, 7]
    assert found.gallery_features.dtype == np.float32


@pytest.mark.parametrize(
    ("numbers", "limit"),
    [
        (np.array([2**64 - 1, 1], np.uint64), 2**63 - 1),
        (np.array([2.0**53 + 2, 1.0]), 2**53),
        (np.array([-(2.0**60), 1.0]), 2**53),
    ],
)
def test_numbers_that_would_become_others_are_refused(
    tmp_path: Path, numbers: np.ndarray, limit: int
) -> None:
    """2^64 - 1 would be -1, which is junk."""
    for name in ("query_ids", "query_cameras"):
        with pytest.raises(DataError, match=f"{name[6:]} of {numbers.dtype} go beyond {limit}"):
            load_feature_file(save(tmp_path, arrays(**{name: numbers})))
    largest = np.array([2**63 - 1, 0], np.uint64)
    assert load_feature_file(save(tmp_path, arrays(query_ids=largest))).query_ids[0] == 2**63 - 1


def test_missing_arrays_are_listed(tmp_path: Path) -> None:
    values = arrays()
    del values["query_ids"], values["gallery_cameras"]
    with pytest.raises(DataError, match="missing: query_ids, gallery_cameras; it holds query_f"):
        load_feature_file(save(tmp_path, values))


@pytest.mark.parametrize(
    "changed",
    [
        {"query_ids": ["4", "7"]},
        {"query_ids": [4.5, 7.0]},
        {"gallery_cameras": [1.0, np.inf, 2.0]},
        {"query_features": [["a", "b"], ["c", "d"]]},
        {"query_features": np.ones((2, 3), np.complex64)},
    ],
)
def test_types_that_cannot_be_used_are_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(changed))):
        load_feature_file(save(tmp_path, arrays(**changed)))


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    values = arrays(query_ids=np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(DataError, match="cannot be read"):
        load_feature_file(save(tmp_path, values))


def test_files_that_are_no_archive_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_feature_file(tmp_path / "missing.npz")
    with pytest.raises(DataError, match=r"not an \.npz file"):
        load_feature_file(tmp_path)
    plain = tmp_path / "plain.npy"
    np.save(plain, np.ones(3))
    with pytest.raises(DataError, match=r"not an \.npz file"):
        load_feature_file(plain)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, arrays(gallery_features=np.ones((3, 300))))
    content = bytearray(path.read_bytes())
    middle = content.index(b"gallery_features") + 2000
    content[middle] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="cannot be read"):
        load_feature_file(path)


def test_without_cameras_they_are_unknown_where_none_are_needed(tmp_path: Path) -> None:
    values = arrays()
    del values["query_cameras"], values["gallery_cameras"]
    path = save(tmp_path, values)
    with pytest.raises(DataError, match=r"missing: query_cameras, gallery_cameras; .* any-camera"):
        load_feature_file(path)
    found = load_feature_file(path, needs_cameras=False)
    assert found.query_cameras.tolist() == [-1, -1]
    assert found.gallery_cameras.tolist() == [-1, -1, -1]
    half = save(tmp_path, values | {"query_cameras": np.array([0, 1])})
    with pytest.raises(DataError, match="missing: gallery_cameras; it holds"):
        load_feature_file(half, needs_cameras=False)


def test_empty_names_are_not_known_but_of_crops(tmp_path: Path) -> None:
    text: dict[str, Any] = {
        "query_ids": ["anna", ""],
        "gallery_ids": ["", "anna", "-1"],
        "query_cameras": ["door", ""],
        "gallery_cameras": ["-1", "door", ""],
        "query_names": ["a", ""],
        "gallery_names": ["", "-1", "a"],
    }
    found = load_feature_file(save(tmp_path, arrays(**text)))
    assert (found.query_ids[1], found.gallery_ids[0], found.gallery_ids[2]) == (-1, -1, -1)
    assert found.query_cameras[1] == found.gallery_cameras[0] == found.gallery_cameras[2] == -1
    assert found.query_names is not None
    assert found.gallery_names is not None
    first, second = found.query_names.tolist()
    assert found.gallery_names.tolist()[0::2] == [second, first]
    assert len({*found.query_names.tolist(), *found.gallery_names.tolist()}) == 3
    with pytest.raises(DataError, match="missing: gallery_names"):
        load_feature_file(save(tmp_path, arrays(query_names=["a", "b"])))


def test_bytes_are_utf_8(tmp_path: Path) -> None:
    names = {"query_ids": ["é".encode(), b"b"], "gallery_ids": ["e\u0301", "b", "c"]}
    table = load_feature_file(save(tmp_path, arrays(**names)))
    assert table.query_ids[0] == table.gallery_ids[0]
    with pytest.raises(DataError, match=r"query_ids holds bytes that are not UTF-8 \(b'.xff1'\)"):
        load_feature_file(save(tmp_path, arrays(**(names | {"query_ids": [b"\xff1", b"b"]}))))


def test_cameras_that_differ_by_spelling_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cameras = {"query_cameras": ["c1", "c10"], "gallery_cameras": ["C01", "c10", "c100"]}
    load_feature_file(save(tmp_path, arrays(**cameras)))
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "cameras 'C01' and 'c1' count as two; spell a camera alike everywhere"
    ]
    for blank in ("c1 ", " c1", "c1\u3000"):
        values = arrays(query_cameras=[blank, "c2"], gallery_cameras=["c1"] * 3)
        with pytest.raises(DataError, match="with blanks around it"):
            load_feature_file(save(tmp_path, values))


def test_a_file_that_is_cut_off_is_not_called_absent(tmp_path: Path) -> None:
    path = save(tmp_path, arrays())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"not an .npz file, or one that was cut off"):
        load_feature_file(path)
