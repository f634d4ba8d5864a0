"""A model as a thing to hand over: a folder of model.onnx, manifest.json and self-test vectors.

    model.onnx            uint8 (B,H,W,3) RGB `images` -> float32 (B,D) `embeddings`, unit length
    manifest.json         what the model is, and the sha256 of every other file
    selftest/images.npy   uint8 (n,H,W,3)
    selftest/vectors.npy  float32 (n,D), what the model gives for them

No torch, no onnx, no pickle: serving a bundle needs numpy and pydantic only.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from models.errors import (
    BundleError,
    BundleExistsError,
    BundleHashMismatchError,
    BundleNotFoundError,
    ManifestInvalidError,
    SelfTestFailedError,
)
from models.files import atomic_folder, is_plain_file, sha256_file, write_synced
from models.image import Preprocessing
from models.manifest import (
    MANIFEST_FILE,
    MAX_TOLERANCE,
    MODEL_FILE,
    SELF_TEST_IMAGES,
    SELF_TEST_VECTORS,
    Manifest,
    ModelCard,
    SelfTest,
)
from models.validation import explain

INPUT_NAME = "images"
OUTPUT_NAME = "embeddings"

_UNIT_TOLERANCE = 1e-3
_MIN_TOLERANCE = 1e-4

Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""uint8 (B,H,W,3) RGB -> float32 (B,D) of unit length."""


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose manifest is valid; `verify` and `check_self_test` look further.

    digest: sha256 of manifest.json, and so of the content of the whole bundle.
    """

    path: Path
    manifest: Manifest
    digest: str

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Read and validate the manifest; every file it names must be there.

        Raises:
            BundleNotFoundError: no folder with a manifest at `path`.
            ManifestInvalidError: the manifest is invalid, or a file it names is missing.
            BundleError: the folder or its manifest cannot be read.
        """
        try:
            return cls._read(path)
        except OSError as error:
            raise BundleError(
                f"{error.filename or path} cannot be read: {error.strerror}; allow this user to "
                "read it, or give another bundle"
            ) from error

    @classmethod
    def _read(cls, path: Path) -> Bundle:
        """As `open`, but raises OSError for what cannot be read."""
        file = path / MANIFEST_FILE
        if not is_plain_file(path, MANIFEST_FILE):
            raise BundleNotFoundError(
                f"no bundle at {path}: it holds no {MANIFEST_FILE}; give a folder made by "
                "`resight export`"
            )
        raw = file.read_bytes()
        try:
            manifest = Manifest.model_validate_json(raw)
        except ValidationError as error:
            raise ManifestInvalidError(
                f"{file} is invalid: {explain(error)}; export the bundle again"
            ) from error
        bundle = cls(path, manifest, hashlib.sha256(raw).hexdigest())
        for name in manifest.files:
            if not is_plain_file(path, name):
                raise ManifestInvalidError(
                    f"{path} lacks {name} as a plain file; copy the whole folder again"
                )
        return bundle

    @property
    def reference(self) -> str:
        """`name@version`."""
        return self.manifest.reference

    @property
    def model_path(self) -> Path:
        """The ONNX file."""
        return self.path / MODEL_FILE

    def verify(self) -> None:
        """Compare every file with the manifest's sha256; refuse files it does not name.

        Raises:
            BundleHashMismatchError: names the files that differ, lack or are too many.
            BundleError: a folder in it cannot be read.
        """
        wrong = [
            name
            for name, expected in self.manifest.files.items()
            if not is_plain_file(self.path, name) or sha256_file(self.path / name) != expected
        ]
        known = {*self.manifest.files, MANIFEST_FILE}
        unexpected = sorted(_files_below(self.path) - known)
        if wrong or unexpected:
            raise BundleHashMismatchError(
                f"{self.path} is not what its maker wrote: differing {sorted(wrong)}, "
                f"unexpected {unexpected}; copy or export the bundle again"
            )

    def self_test(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Recorded (images (n,H,W,3) uint8, vectors (n,D) float32), n >= 2.

        Raises:
            ManifestInvalidError: the arrays do not fit the manifest or each other.
        """
        test = self.manifest.self_test
        images = _load_array(self.path / test.images)
        vectors = _load_array(self.path / test.vectors)
        _check_self_test(images, vectors, self.manifest.preprocessing, test.tolerance)
        if vectors.shape[1] != self.manifest.dimension:
            raise ManifestInvalidError(
                f"self-test vectors have {vectors.shape[1]} dimensions, "
                f"the manifest says {self.manifest.dimension}; export the bundle again"
            )
        return images, vectors


def write_bundle(
    out: Path,
    *,
    card: ModelCard,
    model: bytes,
    images: NDArray[np.uint8],
    vectors: NDArray[np.float32],
    libraries: Mapping[str, str],
) -> Bundle:
    """Write a bundle all at once: either `out` is complete, or it is not there.

    A process killed half-way leaves a hidden folder `.NAME.tmp-*` beside `out`, nothing else.

    Args:
        out: folder to make; must not exist.
        card: what the model is.
        model: the ONNX file.
        images: (n,H,W,3) uint8 RGB, n >= 2, for the self-test.
        vectors: (n,D) float32 of unit length, the model's output for them.
        libraries: name -> version of what made the model.

    The tolerance of the self-test is `MAX_TOLERANCE`, or a quarter of the distance between the
    two closest vectors, so that a wrong row never passes for the right one.

    Raises:
        BundleExistsError: `out` is taken.
        ManifestInvalidError: images and vectors are not a self-test.
    """
    refuse_taken_bundle(out)
    _check_self_test(images, vectors, card.preprocessing, _MIN_TOLERANCE)
    tolerance = min(MAX_TOLERANCE, _closest_pair(vectors) / 4)
    contents = {
        MODEL_FILE: model,
        SELF_TEST_IMAGES: _array_bytes(images),
        SELF_TEST_VECTORS: _array_bytes(vectors),
    }
    manifest = Manifest(
        **dict(card),
        dimension=vectors.shape[1],
        libraries=libraries,
        files={name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
        self_test=SelfTest(tolerance=tolerance),
    )
    contents[MANIFEST_FILE] = (manifest.model_dump_json(indent=2) + "\n").encode()
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_folder(out) as folder:
            for name, data in contents.items():
                write_synced(folder / name, data)
    except FileExistsError as error:
        raise _taken(out) from error
    return Bundle.open(out)


def _files_below(folder: Path) -> set[str]:
    """Paths of all files below, and of all links, which are not followed. Raises BundleError."""

    def refuse(error: OSError) -> None:
        raise BundleError(
            f"{error.filename} cannot be read: {error.strerror}; allow this user to read it, or "
            "copy the bundle again without it"
        ) from error

    found: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=refuse):
        here = Path(parent)
        links = [name for name in folders if (here / name).is_symlink()]
        found |= {(here / name).relative_to(folder).as_posix() for name in [*files, *links]}
    return found


def refuse_taken_bundle(out: Path) -> None:
    """Raise `BundleExistsError` when `out` exists, before long work for it begins."""
    if out.exists() or out.is_symlink():
        raise _taken(out)


def refuse_unwritable_bundle(out: Path) -> None:
    """Raise BundleError unless a bundle can be made at `out`, before long work for it begins.

    A folder is made for a moment where `out`, or the first missing folder above it, would be.
    """
    try:
        refuse_taken_bundle(out)
        above = next(path for path in out.absolute().parents if path.exists())
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.tmp-", dir=above):
            pass
    except OSError as error:
        raise BundleError(f"cannot make {out}: {error.strerror}; choose another --out") from error


def check_self_test(embed: Embed, bundle: Bundle) -> float:
    """Run a loaded model on the bundle's self-test at batch 1 and at batch n.

    max_i ||embed(images)_i - vectors_i||_2 <= tolerance, for both batch sizes.

    Args:
        embed: the model as it will be used: uint8 (B,H,W,3) -> float32 (B,D).
        bundle: whose self-test to run.

    Returns:
        The largest distance seen.

    Raises:
        SelfTestFailedError: wrong shape, NaN or infinity, not unit length, or too far off.
    """
    images, vectors = bundle.self_test()
    single = [embed(images[i : i + 1]) for i in range(len(images))]
    for row in single:
        _check_output(row, 1, bundle)
    batch = embed(images)
    _check_output(batch, len(images), bundle)
    worst = 0.0
    for label, got in (("1", np.concatenate(single)), (str(len(images)), batch)):
        distance = np.linalg.norm(got.astype(np.float64) - vectors, axis=1)
        row_index = int(distance.argmax())
        if distance[row_index] > bundle.manifest.self_test.tolerance:
            raise SelfTestFailedError(
                f"{bundle.reference}: at batch {label}, row {row_index} is "
                f"{distance[row_index]:.3g} away from the recorded vector (allowed "
                f"{bundle.manifest.self_test.tolerance:.3g}); the export or this runtime computes "
                "another model: export again, or change the runtime",
                float(distance[row_index]),
            )
        worst = max(worst, float(distance[row_index]))
    return worst


def _check_output(rows: NDArray[np.float32], batch: int, bundle: Bundle) -> None:
    expected = (batch, bundle.manifest.dimension)
    head = f"{bundle.reference}: at batch {batch} the model gives"
    if rows.shape != expected or rows.dtype != np.float32:
        raise SelfTestFailedError(
            f"{head} {rows.dtype} {rows.shape}, not float32 {expected}; export the model again"
        )
    if not np.isfinite(rows).all():
        raise SelfTestFailedError(f"{head} NaN or infinity; the weights diverged, train again")
    norms = np.linalg.norm(rows, axis=1)
    if np.abs(norms - 1).max() > _UNIT_TOLERANCE:
        raise SelfTestFailedError(
            f"{head} vectors of length {norms.min():.4g} to {norms.max():.4g}, not 1; "
            "export the model again with the normalization inside"
        )


def _check_self_test(
    images: NDArray[np.uint8],
    vectors: NDArray[np.float32],
    preprocessing: Preprocessing,
    tolerance: float,
) -> None:
    count = len(images)
    shape = (count, preprocessing.height, preprocessing.width, 3)
    if images.dtype != np.uint8 or images.shape != shape or count < 2:
        raise ManifestInvalidError(
            f"self-test images are {images.dtype} {images.shape}, not uint8 {shape} with at least "
            "2 images; export the bundle again"
        )
    if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != count:
        raise ManifestInvalidError(
            f"self-test vectors are {vectors.dtype} {vectors.shape}, not float32 ({count}, D); "
            "export the bundle again"
        )
    norms = np.linalg.norm(vectors, axis=1)
    if not np.isfinite(vectors).all() or np.abs(norms - 1).max() > _UNIT_TOLERANCE:
        raise ManifestInvalidError("self-test vectors are not of unit length; export again")
    closest = _closest_pair(vectors)
    if closest < 4 * tolerance:
        raise ManifestInvalidError(
            f"two self-test vectors are only {closest:.3g} apart (tolerance {tolerance:.3g}), so "
            "the test could not tell rows apart; use more different images, or, if the model "
            "gives one vector for everything, train it again"
        )


def _closest_pair(vectors: NDArray[np.float32]) -> float:
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    return float(distances[np.triu_indices(len(vectors), 1)].min())


def _taken(out: Path) -> BundleExistsError:
    return BundleExistsError(f"{out} exists already; choose another folder or remove it first")


def _array_bytes(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _load_array(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ManifestInvalidError(
            f"{path} is not a numpy array ({error}); export again"
        ) from error
    if not isinstance(array, np.ndarray):
        raise ManifestInvalidError(f"{path} is an archive, not a numpy array; export again")
    return array
