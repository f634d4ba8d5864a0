"""Records that the packages of `service` share: small, frozen, checked by their constructors.

Times are aware UTC datetimes with microseconds; ids are the last parts of resource names.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.text import MAX_EXPANSION, UNSEEN, nfc
from service.errors import BadFilterError, BadNameError, BadSightingError

SITE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
SIGHTING_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,127}", re.ASCII)
ADAPTATION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}", re.ASCII)
REQUEST_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_UNSEEN = re.compile(f"[{UNSEEN}]")

MAX_LABEL = 128
"""Most characters of a camera, track or person."""
MAX_FILTER_VALUES = 1000
"""Most values in one list of a filter."""
MAX_ATTRIBUTES = 32
MAX_ATTRIBUTE_KEY = 64
MAX_ATTRIBUTE_VALUE = 1024


def check_site_id(site: str) -> str:
    """Return `site` if it is well formed; raises `BadNameError`."""
    return _check_id(site, SITE_ID, "site id", "1 to 63 of A-Z a-z 0-9 . _ -")


def check_sighting_id(sighting: str) -> str:
    """Return `sighting` if it is well formed; raises `BadNameError`."""
    return _check_id(sighting, SIGHTING_ID, "sighting id", "1 to 128 of A-Z a-z 0-9 . _ ~ -")


def check_adaptation_id(adaptation: str) -> str:
    """Return `adaptation` if it is well formed; raises `BadNameError`."""
    return _check_id(adaptation, ADAPTATION_ID, "adaptation id", "1 to 63 of A-Z a-z 0-9 -")


def _check_id(value: str, pattern: re.Pattern[str], what: str, form: str) -> str:
    if not pattern.fullmatch(value):
        raise BadNameError(
            f"{value[:160]!r} is not a {what}: use {form}, the first one a letter or digit"
        )
    return value


def _is_text(value: str, longest: int) -> bool:
    return len(value) <= longest and not _CONTROL.search(value)


def _composed(value: str, longest: int) -> str:
    """The text in NFC, unless it is longer than `longest` even so."""
    return value if len(value) > MAX_EXPANSION * longest else nfc(value)


def _refuse_unseen(what: str, value: str) -> None:
    found = _UNSEEN.search(value)
    if found is not None:
        raise BadSightingError(
            f"{what} {value!r} has the character U+{ord(found[0]):04X}, which nobody sees; leave "
            "it out"
        )


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A loaded model.

    name, version: identity for people, written `name@version`.
    fingerprint: sha256 of weights and pre-processing: identity for vectors. Two vectors may be
        compared only if their models have the same one.
    dimension: D of its embeddings. height, width: of its input in pixels.
    backbone, method: as its maker names them. provider: "cpu" or "cuda".
    """

    name: str
    version: str
    fingerprint: str
    dimension: int
    height: int
    width: int
    backbone: str
    method: str
    provider: str

    @property
    def reference(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class ModelInUse:
    """The model that a site answers with: its reference and the path of its bundle."""

    reference: str
    bundle: Path


@dataclass(frozen=True, slots=True)
class Site:
    """A site.

    model: reference of the model that its sightings are embedded with. sightings: their number.
    ready: whether the server has loaded that model.
    """

    id: str
    model: str
    sightings: int
    created: datetime
    ready: bool


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


@dataclass(frozen=True, slots=True)
class Sighting:
    """One stored crop of one camera at one time, without its image.

    track, person: empty when not known. created: when it was stored.
    """

    id: str
    camera: str
    time: datetime
    track: str
    person: str
    attributes: Mapping[str, str]
    created: datetime
    crop_kept: bool

    @property
    def attribute_bytes(self) -> int:
        """Bytes of all attributes in UTF-8, their keys included."""
        return sum(_bytes(key) + _bytes(value) for key, value in self.attributes.items())


@dataclass(frozen=True, slots=True)
class Detail:
    """How much of sightings to read.

    attributes: whether to read them. max_bytes: how many bytes attributes may have, of all
    sightings together; those after the first one that exceeds it are not read.
    """

    attributes: bool = True
    max_bytes: int = sys.maxsize


ALL_DETAIL = Detail()


@dataclass(frozen=True, slots=True)
class NewSighting:
    """One crop to enroll.

    image: JPEG, PNG, BMP, WebP or TIFF file. camera: 1 to 128 characters. camera and track have no
    blanks at their ends. camera, track, person and attributes are kept in NFC.
    id: if empty, the server makes one. time: if None, the time of receipt.
    Raises `BadNameError` or `BadSightingError`.
    """

    image: bytes
    camera: str
    id: str = ""
    time: datetime | None = None
    track: str = ""
    person: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.id:
            check_sighting_id(self.id)
        if not self.camera:
            raise BadSightingError("camera is empty; name the camera that saw the crop")
        for name in ("camera", "track", "person"):
            value = _composed(getattr(self, name), MAX_LABEL)
            if any("\ud800" <= char <= "\udfff" for char in value):
                raise BadSightingError(f"{name} is not UTF-8 and cannot be stored; spell it anew")
            if not _is_text(value, MAX_LABEL):
                raise BadSightingError(
                    f"{name} is longer than {MAX_LABEL} characters or has control characters"
                )
            _refuse_unseen(name, value)
            object.__setattr__(self, name, value)
        for name in ("camera", "track"):  # an adaptation would take "c1" and "c1 " for one
            value = getattr(self, name)
            if value != value.strip():
                raise BadSightingError(f"{name} {value!r} has blanks at its ends; leave them out")
        if self.time is not None and self.time.tzinfo is None:
            raise BadSightingError("time has no time zone; give an aware datetime")
        self._check_attributes()

    def _check_attributes(self) -> None:
        if len(self.attributes) > MAX_ATTRIBUTES:
            raise BadSightingError(f"more than {MAX_ATTRIBUTES} attributes; send fewer")
        composed = {
            _composed(key, MAX_ATTRIBUTE_KEY): _composed(value, MAX_ATTRIBUTE_VALUE)
            for key, value in self.attributes.items()
        }
        if len(composed) < len(self.attributes):
            raise BadSightingError(
                "two attribute keys are one text in two Unicode spellings; leave one out"
            )
        object.__setattr__(self, "attributes", composed)
        for key, value in composed.items():
            if not key or not _is_text(key, MAX_ATTRIBUTE_KEY):
                raise BadSightingError(
                    f"attribute key {key[:80]!r} is empty, longer than {MAX_ATTRIBUTE_KEY} "
                    "characters or has control characters"
                )
            _refuse_unseen("attribute key", key)
            if not _is_text(value, MAX_ATTRIBUTE_VALUE):
                raise BadSightingError(
                    f"attribute {key!r} is longer than {MAX_ATTRIBUTE_VALUE} characters or has "
                    "control characters"
                )


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A stored sighting. replaced: it took the place of one with the same id."""

    sighting: Sighting
    replaced: bool


FILTER_LISTS: Mapping[str, str] = {
    "cameras": "camera",
    "exclude_cameras": "camera",
    "persons": "person",
    "exclude_tracks": "track",
}
"""The lists of a filter, and the field of a sighting that each is compared with."""


@dataclass(frozen=True, slots=True)
class SightingFilter:
    """Which sightings to consider; the conditions are combined with AND.

    cameras, persons: one of these, empty for any. exclude_cameras, exclude_tracks: none of these;
    a sighting without a track is never excluded. start <= time < end. Values are kept in NFC.
    Raises `BadFilterError`.
    """

    cameras: tuple[str, ...] = ()
    exclude_cameras: tuple[str, ...] = ()
    start: datetime | None = None
    end: datetime | None = None
    persons: tuple[str, ...] = ()
    exclude_tracks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in FILTER_LISTS:
            if len(getattr(self, name)) > MAX_FILTER_VALUES:
                raise BadFilterError(f"{name} has more than {MAX_FILTER_VALUES} values; send fewer")
            values = tuple(_composed(value, MAX_LABEL) for value in getattr(self, name))
            object.__setattr__(self, name, values)
            for value in values:
                if not value or not _is_text(value, MAX_LABEL):
                    raise BadFilterError(
                        f"{name} has the value {value[:160]!r}, which no sighting can have; "
                        "leave it out"
                    )
        for moment in (self.start, self.end):
            if moment is not None and moment.tzinfo is None:
                raise BadFilterError("a time has no time zone; give an aware datetime")
        if self.start is not None and self.end is not None and self.start > self.end:
            raise BadFilterError(
                f"start time {self.start.isoformat()} is after end time {self.end.isoformat()}"
            )


EVERY_SIGHTING = SightingFilter()


@dataclass(frozen=True, slots=True)
class UnknownValues:
    """Values in one list of a filter that no sighting of the site has.

    field: one of `FILTER_LISTS`. values: the first of them. count: of all. known: what sightings
    have there instead, the most similar first; not all, and none where there are too many to
    compare. known_count: of all.
    """

    field: str
    values: tuple[str, ...]
    count: int
    known: tuple[str, ...]
    known_count: int


@dataclass(frozen=True, slots=True)
class CameraSummary:
    """What a site has of a camera: the number of sightings, times of the first and the last."""

    camera: str
    sightings: int
    first: datetime
    last: datetime


@dataclass(frozen=True, slots=True)
class Match:
    """A sighting and its cosine similarity to the query, -1 to 1."""

    sighting: Sighting
    score: float


@dataclass(frozen=True, slots=True)
class RolloverProgress:
    """How far the rollover of a site is: `embedded` of `total` sightings, `dropped` deleted.

    adaptation, verdict: of an activated model of the registry, see `models.registry.GateRecord`.
    """

    embedded: int
    total: int
    dropped: int
    site: Site
    adaptation: str = ""
    verdict: str = ""


Vector = NDArray[np.float32]
"""(D,) float32 of unit length."""
