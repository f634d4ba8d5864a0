from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.bundle import Bundle, check_self_test, refuse_unwritable_bundle, write_bundle
from models.errors import (
    BundleError,
    BundleExistsError,
    BundleHashMismatchError,
    BundleNotFoundError,
    ManifestInvalidError,
    SelfTestFailedError,
)
from models.files import sha256_file
from models.manifest import MAX_TOLERANCE, ModelCard

Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
FILES = ("model.onnx", "selftest/images.npy", "selftest/vectors.npy")


@pytest.fixture
def bundle(make_bundle: Callable[..., Bundle], tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "bundle")


def test_a_place_for_a_bundle_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    refuse_unwritable_bundle(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "b", Path("/proc/zz"), tmp_path / ("x" * 300)):
        with pytest.raises(BundleError, match=r"^cannot make .*; choose another --out"):
            refuse_unwritable_bundle(out)


def rewrite(bundle: Bundle, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest on disk and keep its hashes right."""
    file = bundle.path / "manifest.json"
    content = json.loads(file.read_text())
    for name in content["files"]:
        content["files"][name] = sha256_file(bundle.path / name)
    change(content)
    file.write_text(json.dumps(content))


def test_write_open_verify(bundle: Bundle, make_card: Callable[..., ModelCard]) -> None:
    again = Bundle.open(bundle.path)
    again.verify()
    assert again == bundle
    assert again.reference == "toy@1"
    assert again.model_path.read_bytes() == b"not really onnx"
    assert again.manifest.dimension == 6
    assert again.manifest.libraries == {"numpy": np.__version__}
    card = make_card()
    assert all(getattr(again.manifest, field) == value for field, value in card)
    assert sorted(p.name for p in bundle.path.parent.iterdir()) == ["bundle"]


def test_a_taken_target_is_refused_and_kept(
    bundle: Bundle, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    with pytest.raises(BundleExistsError, match="exists already"):
        make_bundle(bundle.path, model=b"other")
    bundle.verify()
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    with pytest.raises(BundleExistsError):
        make_bundle(dangling)


@pytest.mark.parametrize("kind", ["nothing", "empty folder", "file", "manifest is a link"])
def test_no_bundle_here(bundle: Bundle, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "other"
    if kind == "empty folder":
        path.mkdir()
    if kind == "file":
        path.write_bytes(b"x")
    if kind == "manifest is a link":
        path.mkdir()
        (path / "manifest.json").symlink_to(bundle.path / "manifest.json")
    with pytest.raises(BundleNotFoundError, match="resight export"):
        Bundle.open(path)


@pytest.mark.parametrize("looked", ["is_symlink", "read_bytes"])
def test_a_manifest_that_cannot_be_read(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, looked: str
) -> None:
    """By a folder that may not be entered, or by the file's own rights."""

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, looked, refuse)
    file = bundle.path / "manifest.json"
    with pytest.raises(
        BundleError, match=f"{file} cannot be read: Permission denied; allow this user"
    ):
        Bundle.open(bundle.path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_no_manifest(bundle: Bundle, content: bytes) -> None:
    (bundle.path / "manifest.json").write_bytes(content)
    with pytest.raises(ManifestInvalidError, match="export the bundle again"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize("field", ["name", "version", "dimension", "files", "self_test", "created"])
def test_a_manifest_without_a_field(bundle: Bundle, field: str) -> None:
    rewrite(bundle, lambda content: content.pop(field))
    with pytest.raises(ManifestInvalidError, match=field):
        Bundle.open(bundle.path)


def test_a_newer_schema_is_refused(bundle: Bundle) -> None:
    rewrite(bundle, lambda content: content.update(schema_version=2))
    with pytest.raises(ManifestInvalidError, match="schema_version"):
        Bundle.open(bundle.path)


def test_a_path_out_of_the_bundle_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s")
    digest = sha256_file(tmp_path / "secret")
    rewrite(bundle, lambda content: content["files"].update({"../secret": digest}))
    with pytest.raises(ManifestInvalidError, match="plain path"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(bundle: Bundle, name: str) -> None:
    (bundle.path / name).unlink()
    with pytest.raises(ManifestInvalidError, match=name):
        Bundle.open(bundle.path)
    with pytest.raises(BundleHashMismatchError, match=name):
        bundle.verify()


@pytest.mark.parametrize("name", FILES)
def test_a_link_in_place_of_a_file(bundle: Bundle, tmp_path: Path, name: str) -> None:
    shutil.move(bundle.path / name, tmp_path / "outside")
    (bundle.path / name).symlink_to(tmp_path / "outside")
    with pytest.raises(ManifestInvalidError, match=name):
        Bundle.open(bundle.path)
    with pytest.raises(BundleHashMismatchError, match=name):
        bundle.verify()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("position", [0, -1])
def test_one_changed_byte_is_found(bundle: Bundle, name: str, position: int) -> None:
    content = bytearray((bundle.path / name).read_bytes())
    content[position] ^= 1
    (bundle.path / name).write_bytes(content)
    with pytest.raises(BundleHashMismatchError, match=name):
        bundle.verify()


@pytest.mark.parametrize("name", ["extra.txt", "selftest/extra.npy", ".hidden", "deep/er/x"])
def test_an_unexpected_file_is_found(bundle: Bundle, name: str) -> None:
    (bundle.path / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle.path / name).write_bytes(b"x")
    with pytest.raises(BundleHashMismatchError, match=name):
        bundle.verify()


def test_a_folder_that_cannot_be_read_is_an_error(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = bundle.path / "hidden"
    hidden.mkdir()
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path) == hidden:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(BundleError, match=rf"{hidden} cannot be read: Permission denied; allow"):
        bundle.verify()


def test_an_unexpected_link_to_a_folder_is_found(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.path / "linked").symlink_to(tmp_path)
    with pytest.raises(BundleHashMismatchError, match="linked"):
        bundle.verify()


def test_the_digest_covers_every_file(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    one = make_bundle(tmp_path / "1")
    assert make_bundle(tmp_path / "2").digest == one.digest
    assert make_bundle(tmp_path / "3", model=b"x").digest != one.digest
    assert make_bundle(tmp_path / "4", recipe="x").digest != one.digest


def test_the_self_test_is_what_was_written(bundle: Bundle, toy_embed: Embed) -> None:
    images, vectors = bundle.self_test()
    assert images.dtype == np.uint8
    assert images.shape == (4, 16, 8, 3)
    np.testing.assert_array_equal(vectors, toy_embed(images))


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.mark.touch, ())


@pytest.mark.parametrize("name", ["selftest/images.npy", "selftest/vectors.npy"])
@pytest.mark.parametrize("kind", ["pickle", "object array", "archive", "garbage", "shape", "type"])
def test_self_test_files_that_are_none(
    bundle: Bundle, tmp_path: Path, name: str, kind: str
) -> None:
    file = bundle.path / name
    if kind == "pickle":
        file.write_bytes(pickle.dumps(Evil(tmp_path / "unpickled")))
    if kind == "object array":
        with file.open("wb") as out:
            np.save(out, np.array([Evil(tmp_path / "unpickled")], dtype=object), allow_pickle=True)
    if kind == "archive":
        with file.open("wb") as out:
            np.savez(out, a=np.zeros(3))
    if kind == "garbage":
        file.write_bytes(b"\x93NUMPY")
    if kind == "shape":
        array = np.load(file)[:1]
        with file.open("wb") as out:
            np.save(out, array)
    if kind == "type":
        array = np.load(file).astype(np.float64)
        with file.open("wb") as out:
            np.save(out, array)
    with pytest.raises(ManifestInvalidError):
        bundle.self_test()
    assert not (tmp_path / "unpickled").exists()


def test_a_wrong_dimension_is_found(bundle: Bundle) -> None:
    rewrite(bundle, lambda content: content.update(dimension=7))
    with pytest.raises(ManifestInvalidError, match="7"):
        Bundle.open(bundle.path).self_test()


def write(out: Path, card: ModelCard, images: Any, vectors: Any) -> Bundle:
    return write_bundle(out, card=card, model=b"m", images=images, vectors=vectors, libraries={})


@pytest.mark.parametrize(
    "kind", ["one image", "float images", "other size", "not unit", "nan", "equal", "counts"]
)
def test_what_is_no_self_test_is_not_written(
    bundle: Bundle, make_card: Callable[..., ModelCard], tmp_path: Path, kind: str
) -> None:
    images: NDArray[Any]
    images, vectors = bundle.self_test()
    if kind == "one image":
        images, vectors = images[:1], vectors[:1]
    if kind == "float images":
        images = images.astype(np.float32)
    if kind == "other size":
        images = images[:, :8]
    if kind == "not unit":
        vectors = vectors * np.float32(1.1)
    if kind == "nan":
        vectors = vectors * np.float32("nan")
    if kind == "equal":
        vectors = np.repeat(vectors[:1], len(vectors), axis=0)
    if kind == "counts":
        vectors = vectors[:3]
    out = tmp_path / "out"
    with pytest.raises(ManifestInvalidError):
        write(out, make_card(), images, vectors)
    assert not out.exists()


def test_the_tolerance_is_below_the_distance_of_the_closest_pair(
    bundle: Bundle, make_card: Callable[..., ModelCard], tmp_path: Path
) -> None:
    images, vectors = bundle.self_test()
    assert bundle.manifest.self_test.tolerance == MAX_TOLERANCE
    angle = np.array([0, 0.02, 1, 2], np.float32)
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    close = write(tmp_path / "close", make_card(), images, vectors)
    assert close.manifest.self_test.tolerance == pytest.approx(0.005, rel=0.01)
    close.self_test()


def test_self_test_passes_for_the_right_model(bundle: Bundle, toy_embed: Embed) -> None:
    assert check_self_test(toy_embed, bundle) < 1e-6


def test_self_test_reports_the_deviation(bundle: Bundle, toy_embed: Embed) -> None:
    def rotated(images: NDArray[np.uint8], angle: float) -> NDArray[np.float32]:
        out = toy_embed(images).astype(np.float64)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        out[:, :2] = out[:, :2] @ turn
        return out.astype(np.float32)

    assert 0 < check_self_test(lambda images: rotated(images, 1e-3), bundle) < MAX_TOLERANCE
    with pytest.raises(SelfTestFailedError, match="away from") as caught:
        check_self_test(lambda images: rotated(images, 0.5), bundle)
    assert 0.05 < caught.value.deviation < 0.51


WRONG: dict[str, tuple[Callable[[NDArray[np.float32]], NDArray[Any]], str]] = {
    "first row for all": (lambda v: np.repeat(v[:1], len(v), axis=0), "at batch 4"),
    "rows in another order": (lambda v: v[::-1], "at batch 4"),
    "mixes the batch": (lambda v: (w := v + 0.1 * v.mean(0)) / np.linalg.norm(w, axis=1)[:, None],
                        "away from"),
    "only one row": (lambda v: v[:1], "at batch 4"),
    "no batch axis": (lambda v: v.ravel(), "float32"),
    "not normalized": (lambda v: v * np.float32(2), "length"),
    "nan": (lambda v: v * np.float32("nan"), "NaN"),
    "double": (lambda v: v.astype(np.float64), "float64"),
    "other dimension": (lambda v: v[:, :3], "not float32"),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(WRONG))
def test_self_test_fails_for_a_wrong_model(bundle: Bundle, toy_embed: Embed, kind: str) -> None:
    spoil, message = WRONG[kind]
    with pytest.raises(SelfTestFailedError, match=message):
        check_self_test(lambda images: spoil(toy_embed(images)).astype(
            np.float64 if kind == "double" else np.float32), bundle)  # fmt: skip


def test_runs_with_torch_and_onnx_absent(bundle: Bundle) -> None:
    script = f"""
import sys
for name in ("torch", "torchvision", "onnx", "onnxruntime"):
    sys.modules[name] = None
import models.errors, models.image, models.registry
from models.bundle import Bundle
from pathlib import Path
Bundle.open(Path({str(bundle.path)!r})).verify()
"""
    subprocess.run([sys.executable, "-c", script], check=True)
