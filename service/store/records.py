"""Records that the store takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from service.errors import CallError, DuplicateIdError
from service.store.times import to_us
from service.types import NewSighting, Sighting, Vector


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """What the index keeps of a sighting.

    number: of its row in the store, another one after each replacement, never used twice.
    time_us: microseconds since 1970 UTC.
    """

    number: int
    id: str
    vector: Vector
    camera: str
    time_us: int
    track: str
    person: str


@dataclass(frozen=True, slots=True)
class NewRow:
    """A sighting to store. image: None when crops are not kept."""

    sighting: Sighting
    image: bytes | None
    vector: Vector

    def entry(self, number: int) -> IndexEntry:
        """Its entry in the index, once it is stored in the row of this number."""
        seen = self.sighting
        return IndexEntry(
            number, seen.id, self.vector, seen.camera, to_us(seen.time), seen.track, seen.person
        )


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """Makes the retry of a call safe.

    id: the caller's request id. content_hash: sha256 of the call's content, hexadecimal.
    sighting_ids: one for each item of the call, "" where the server makes it; empty: all of them.
    """

    id: str
    content_hash: str
    sighting_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """A sighting that was stored by this call or by the one it repeats."""

    id: str
    replaced: bool


@dataclass(frozen=True, slots=True)
class EnrollOutcome:
    """The result of one enrolling call, one entry per item.

    repeated: it was stored by an earlier call with the same request id. numbers: of the rows that
    this call added.
    """

    items: tuple[Stored | CallError, ...]
    repeated: bool
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SiteRow:
    """A site. model: fingerprint; reference: `name@version` of the same model."""

    id: str
    model: str
    reference: str
    created: datetime
    sightings: int


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A model that sites were bound to: fingerprint and `name@version`."""

    fingerprint: str
    reference: str


@dataclass(frozen=True, slots=True)
class Checked:
    """Which sightings of a site were seen to have a vector of a model: those up to a row number.

    site: its number, 0: any. row: the last row that was looked at. lacking: rows up to it that had
    none.
    """

    site: int = 0
    row: int = 0
    lacking: tuple[int, ...] = ()


UNCHECKED = Checked()


@dataclass(frozen=True, slots=True)
class SeenCrop:
    """A kept crop with its camera, track and time, without any identity.

    row: number of the sighting's row in the store.
    """

    row: int
    camera: str
    track: str
    time: datetime
    image: bytes


@dataclass(frozen=True, slots=True)
class KeptCrop:
    """A sighting's row number, id and crop (None: not kept)."""

    row: int
    id: str
    image: bytes | None


def new_rows(
    items: Sequence[tuple[NewSighting, Vector] | CallError],
    *,
    now: datetime,
    new_id: Callable[[], str],
    keep_crops: bool,
) -> list[NewRow | CallError]:
    """Rows for sightings and their embeddings; a second one of the same id is an error."""
    rows: list[NewRow | CallError] = []
    seen: set[str] = set()
    for item in items:
        if isinstance(item, CallError):
            rows.append(item)
            continue
        new, vector = item
        if new.id and new.id in seen:
            rows.append(
                # Kept with the results of the call: ids of sightings do not belong there.
                DuplicateIdError("an earlier item has the same sighting id; send one of them")
            )
            continue
        seen.add(new.id)
        sighting = Sighting(
            id=new.id or new_id(),
            camera=new.camera,
            time=new.time or now,
            track=new.track,
            person=new.person,
            attributes=new.attributes,
            created=now,
            crop_kept=keep_crops,
        )
        rows.append(NewRow(sighting, new.image if keep_crops else None, vector))
    return rows
