"""The records of manifest.json. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    model_validator,
)

from models.image import Preprocessing

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"
SELF_TEST_IMAGES = "selftest/images.npy"
SELF_TEST_VECTORS = "selftest/vectors.npy"

MAX_TOLERANCE = 1e-2
"""Euclidean distance between unit vectors: cosine 0.99995. Wide enough for TF32 and other
runtimes' kernels, far below the distance between two different crops."""

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
VERSION_PATTERN = r"^(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){0,2}$"
"""1 to 3 dot-separated numbers without leading zeros: "3", "1.2", "1.2.0"."""


def _safe_relative(name: str) -> str:
    path = PurePosixPath(name)
    plain = str(path) == name and not path.is_absolute() and ".." not in path.parts
    if not plain or name == MANIFEST_FILE or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is not a plain path inside the bundle")
    return name


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RelativeFile = Annotated[str, AfterValidator(_safe_relative)]


class ForeignSource(BaseModel):
    """Where a foreign model came from, and what it was said to expect of its pixels.

    file, sha256: name and hash of the ONNX file that was wrapped.
    weights: name and hash of each file beside it that held weights.
    channel_order, scale, mean, std: (scale x - mean) / std, x in 0..255, channels in this order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    sha256: Sha256
    weights: Mapping[str, Sha256] = {}
    channel_order: Literal["rgb", "bgr"]
    scale: FiniteFloat
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    std: tuple[FiniteFloat, FiniteFloat, FiniteFloat]


class ModelCard(BaseModel):
    """What its maker says about a model.

    name, version: identity, written `name@version`; see `NAME_PATTERN` and `VERSION_PATTERN`.
    backbone: architecture ("resnet50_ibn_a"), or what a foreign model calls itself.
    preprocessing: from image bytes to the model's input.
    method: how it was trained last ("source", "mmt", "foreign").
    recipe: name of the hyper-parameters used, empty when there are none.
    data: name -> fingerprint of every training set; empty when unknown.
    scores: name -> figure measured by the maker; may be empty.
    created: time of making, with time zone.
    foreign: of a wrapped model, what was wrapped and how; absent for our own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=NAME_PATTERN)
    version: str = Field(pattern=VERSION_PATTERN)
    backbone: str = Field(min_length=1)
    preprocessing: Preprocessing
    method: str = Field(min_length=1)
    recipe: str = ""
    data: Mapping[str, str] = {}
    scores: Mapping[str, FiniteFloat] = {}
    created: AwareDatetime
    foreign: ForeignSource | None = None

    @property
    def reference(self) -> str:
        """`name@version`, the identity of the model for the world."""
        return f"{self.name}@{self.version}"


class SelfTest(BaseModel):
    """Files of the self-test, and the largest Euclidean distance a vector may be off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: RelativeFile = SELF_TEST_IMAGES
    vectors: RelativeFile = SELF_TEST_VECTORS
    tolerance: float = Field(gt=0, le=MAX_TOLERANCE)


class Manifest(ModelCard):
    """The content of manifest.json: the card, and what makes the folder checkable.

    dimension: D of the embedding.
    libraries: name -> version of what made the bundle.
    files: path below the bundle -> sha256, every file but manifest.json itself.
    """

    schema_version: Literal[1] = 1
    dimension: int = Field(ge=1, le=65536)
    libraries: Mapping[str, str] = {}
    files: Mapping[RelativeFile, Sha256]
    self_test: SelfTest

    @model_validator(mode="after")
    def _required_files_are_hashed(self) -> Manifest:
        for name in (MODEL_FILE, self.self_test.images, self.self_test.vectors):
            if name not in self.files:
                raise ValueError(f"files does not list {name}")
        return self
