"""The statements of the store, each on a connection inside a transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import (
    ColumnElement,
    Connection,
    LargeBinary,
    Select,
    Table,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    tuple_,
)

from service.errors import (
    AdaptationUnfinishedError,
    CallError,
    ModelMismatchError,
    RequestIdReusedError,
    SightingNotFoundError,
    SiteNotFoundError,
    call_errors,
)
from service.store.damage import (
    damaged_row,
    is_time,
    json_list,
    refuse_non_text,
    stored_bytes,
    stored_time,
    text_map,
)
from service.store.records import (
    EnrollOutcome,
    IdempotencyKey,
    IndexEntry,
    NewRow,
    SiteRow,
    Stored,
)
from service.store.tables import (
    adaptations,
    crops,
    embeddings,
    models,
    requests,
    sightings,
    sites,
)
from service.store.times import FIRST_US, LAST_US, to_us
from service.types import CameraSummary, Sighting, SightingFilter, Vector

CHUNK = 500
"""Most values of one IN (...), which databases limit."""

_LENGTH_TOLERANCE = 1e-2
"""Of the squared length of a stored vector, which is 1: more is damage."""

_SEEN_TEXTS = ("sighting", "camera", "track", "person")

_CALL_ERRORS = call_errors()


def site_not_found(site: str) -> SiteNotFoundError:
    """The error for a site that does not exist."""
    return SiteNotFoundError(f"there is no site {site}; make it with `resight site create {site}`")


def sighting_not_found(site: str, sighting: str) -> SightingNotFoundError:
    """The error for a sighting that does not exist."""
    return SightingNotFoundError(f"site {site} has no sighting {sighting}")


def site_rows(connection: Connection, site: str | None) -> list[SiteRow]:
    """One site, or all for None, ordered by id."""
    held = (
        select(func.count())
        .select_from(sightings)
        .where(sightings.c.site == sites.c.number)
        .scalar_subquery()
    )
    query = (
        select(sites, models.c.reference, held.label("held"))
        .outerjoin(models, models.c.fingerprint == sites.c.model)
        .where(sites.c.site.is_not(None))
        .order_by(sites.c.site)
    )
    if site is not None:
        query = query.where(sites.c.site == site)
    return [_site_row(row) for row in connection.execute(query)]


def _site_row(row: Any) -> SiteRow:
    name = f"site {row.site}"
    refuse_non_text(row, name, ("site", "model"))
    if row.reference is None:
        raise damaged_row(name, f"is bound to a model ({row.model[:12]}) that is not in `models`")
    refuse_non_text(row, f"the model {row.model[:12]} of {name}", ("reference",))
    created = stored_time(row.created_us, name)
    return SiteRow(row.site, row.model, row.reference, created, row.held)


def of_site(table: Table, site: str) -> ColumnElement[bool]:
    """The condition that a row of a table belongs to a site."""
    number = select(sites.c.number).where(sites.c.site == site).scalar_subquery()
    return table.c.site == number


def site_number(connection: Connection, site: str) -> int:
    """The number that the rows of a site have; raises `SiteNotFoundError`."""
    number: int | None = connection.execute(
        select(sites.c.number).where(sites.c.site == site)
    ).scalar()
    if number is None:
        raise site_not_found(site)
    return number


def require_site(connection: Connection, site: str) -> str:
    """The fingerprint of the site's model."""
    model: str | None = connection.execute(
        select(sites.c.model).where(sites.c.site == site)
    ).scalar()
    if model is None:
        raise site_not_found(site)
    return model


def require_model(connection: Connection, site: str, model: str) -> None:
    """Raise `ModelMismatchError` unless the site is bound to the model of this fingerprint."""
    bound = require_site(connection, site)
    if bound != model:
        known = select(models.c.fingerprint, models.c.reference).where(
            models.c.fingerprint.in_([bound, model])
        )
        names = {row.fingerprint: row.reference for row in connection.execute(known)}
        raise model_mismatch(
            site, (names.get(bound, "unknown"), bound), (names.get(model, "another"), model)
        )


def model_mismatch(
    site: str, bound: tuple[str, str], running: tuple[str, str]
) -> ModelMismatchError:
    """The error for a site of another model; models are (reference, fingerprint)."""
    return ModelMismatchError(
        f"site {site} is embedded with {bound[0]} (fingerprint {bound[1][:12]}), the server runs "
        f"{running[0]} ({running[1][:12]}); embed it again with `resight site reembed {site}`, or "
        f"start the server with {bound[0]} of this fingerprint, given or in its registry",
        metadata={"site_model": bound[0], "server_model": running[0]},
    )


def select_sightings(*where: ColumnElement[bool], attributes: bool = True) -> Select[Any]:
    """Sightings for `to_sighting`, with or without their attributes; none of a deleted site."""
    stored = sightings.c.attributes
    columns: list[Any] = [column for column in sightings.c if column is not stored]
    columns.append(stored if attributes else literal({}, stored.type).label(stored.name))
    return (
        select(
            *columns, sites.c.site.label("site_name"), crops.c.row.is_not(None).label("crop_kept")
        )
        .join(sites, sites.c.number == sightings.c.site)
        .outerjoin(crops, crops.c.row == sightings.c.row)
        .where(sites.c.site.is_not(None), *where)
    )


def filtered(query: Select[Any], wanted: SightingFilter) -> Select[Any]:
    """The query with the conditions of a filter.

    A damaged value passes, and the reader of the row refuses it; but for one of a person, which
    `refuse_damaged_persons` looks for.
    """
    columns = sightings.c
    no_camera, no_track = _no_text(columns.camera), _no_text(columns.track)
    if wanted.cameras:
        query = query.where(columns.camera.in_(wanted.cameras) | no_camera)
    if wanted.exclude_cameras:
        query = query.where(columns.camera.not_in(wanted.exclude_cameras) | no_camera)
    if wanted.start is not None:
        query = query.where((columns.time_us >= to_us(wanted.start)) | _no_time())
    if wanted.end is not None:
        query = query.where((columns.time_us < to_us(wanted.end)) | _no_time())
    if wanted.persons:
        query = query.where(columns.person.in_(wanted.persons))
    if wanted.exclude_tracks:
        query = query.where(columns.track.not_in(wanted.exclude_tracks) | no_track)
    return query


def _no_text(column: ColumnElement[str]) -> ColumnElement[bool]:
    return func.typeof(column) != "text"


def _no_time() -> ColumnElement[bool]:
    column = sightings.c.time_us
    return or_(func.typeof(column) != "integer", column < FIRST_US, column > LAST_US)


def refuse_damaged_persons(connection: Connection, site: str) -> None:
    """Raise `DamagedRowError` where a sighting of a site has a blob as its person.

    A filter by person does not see it: one that did would have to read the whole site. All blobs
    are after all texts in the index.
    """
    blobs = sightings.c.person >= literal(b"", LargeBinary)
    query = select_sightings(of_site(sightings, site), blobs, attributes=False).limit(1)
    for row in connection.execute(query):
        to_sighting(row)


def named(column: ColumnElement[str], name: str) -> ColumnElement[bool]:
    """The condition that a column is a name, also as a blob: the reader of the row refuses it."""
    return column.in_([literal(name), literal(name.encode(), LargeBinary)])


def lacks_embedding(model: str) -> Any:
    """The condition that a sighting has no embedding of a model."""
    return ~exists().where(embeddings.c.row == sightings.c.row, embeddings.c.model == model)


def to_sighting(row: Any) -> Sighting:
    """A row of `select_sightings`; raises `DamagedRowError`."""
    name = f"sighting {row.sighting} of site {row.site_name}"
    refuse_non_text(row, name, _SEEN_TEXTS)
    return Sighting(
        id=row.sighting,
        camera=row.camera,
        time=stored_time(row.time_us, name),
        track=row.track,
        person=row.person,
        attributes=text_map(row.attributes, name, "attributes"),
        created=stored_time(row.created_us, name),
        crop_kept=bool(row.crop_kept),
    )


def camera_summary(row: Any, site: str) -> CameraSummary:
    """A camera of a site; raises `DamagedRowError`."""
    name = f"a sighting of site {site}"
    refuse_non_text(row, name, ("camera",))
    first, last = (stored_time(value, name) for value in (row.first_us, row.last_us))
    return CameraSummary(row.camera, row.held, first, last)


def select_vectors(site: str, model: str) -> Select[Any]:
    """The sightings of a site with their embeddings of a model for `index_entry`; NULL: none."""
    return (
        select(
            sightings.c.row,
            sightings.c.sighting,
            sightings.c.camera,
            sightings.c.time_us,
            sightings.c.track,
            sightings.c.person,
            embeddings.c.vector,
        )
        .outerjoin(
            embeddings, (embeddings.c.row == sightings.c.row) & (embeddings.c.model == model)
        )
        .where(of_site(sightings, site))
    )


def index_entry(row: Any, site: str, dimension: int) -> IndexEntry:
    """An index entry; raises `DamagedRowError`, also where the vector is absent."""
    number, sighting, camera, time_us, track, person, blob = row  # by name takes twice as long
    name = f"sighting {sighting} of site {site}"
    if not all(isinstance(text, str) for text in (sighting, camera, track, person)):
        refuse_non_text(row, name, _SEEN_TEXTS)
    if not is_time(time_us):
        raise damaged_row(name, f"has {time_us!r} as a time")
    blob = stored_bytes(b"" if blob is None else blob, name, "a vector")
    if len(blob) != 4 * dimension:
        raise damaged_row(name, f"has a vector of {len(blob)} bytes, not {4 * dimension}")
    vector = np.frombuffer(blob, "<f4")
    length = float(vector @ vector)
    if not abs(length - 1) <= _LENGTH_TOLERANCE:  # also where it is NaN
        raise damaged_row(name, f"has a vector of squared length {length:.3g}, not 1")
    return IndexEntry(number, sighting, vector, camera, time_us, track, person)


def blob(vector: Vector) -> bytes:
    """A vector as it is stored: little-endian float32."""
    return vector.astype("<f4").tobytes()


def delete_sightings(connection: Connection, site: str, ids: Sequence[str]) -> set[str]:
    """Delete those of the named sightings that exist; returns their ids."""
    found: set[str] = set()
    for start in range(0, len(ids), CHUNK):
        named = of_site(sightings, site) & sightings.c.sighting.in_(ids[start : start + CHUNK])
        found |= set(connection.execute(select(sightings.c.sighting).where(named)).scalars())
        if found:
            connection.execute(delete(sightings).where(named))
    return found


def insert_rows(
    connection: Connection, site: str, model: str, rows: Sequence[NewRow]
) -> tuple[int, ...]:
    """Store sightings; returns the numbers of their rows."""
    if not rows:
        return ()
    number_of_site = site_number(connection, site)
    numbers = connection.execute(
        insert(sightings).returning(sightings.c.row, sort_by_parameter_order=True),
        [
            {
                "site": number_of_site,
                "sighting": row.sighting.id,
                "camera": row.sighting.camera,
                "time_us": to_us(row.sighting.time),
                "track": row.sighting.track,
                "person": row.sighting.person,
                "attributes": dict(row.sighting.attributes),
                "created_us": to_us(row.sighting.created),
            }
            for row in rows
        ],
    ).scalars()
    made = tuple(numbers)
    numbered = list(zip(made, rows, strict=True))
    kept = [{"row": number, "image": row.image} for number, row in numbered if row.image]
    if kept:
        connection.execute(insert(crops), kept)
    connection.execute(
        insert(embeddings),
        [{"row": number, "model": model, "vector": blob(row.vector)} for number, row in numbered],
    )
    return made


def refuse_unfinished(connection: Connection, site: str) -> None:
    """Raise `AdaptationUnfinishedError` while an adaptation of the site waits or runs.

    Raises `DamagedRowError` where it cannot be told.
    """
    unfinished = connection.execute(
        select(adaptations.c.adaptation, adaptations.c.state).where(
            named(adaptations.c.site, site),
            adaptations.c.state.not_in(["SUCCEEDED", "FAILED", "CANCELLED"]),
        )
    ).first()
    if unfinished is None:
        return
    name = f"adaptation {unfinished.adaptation} of site {site}"
    if unfinished.state not in ("PENDING", "RUNNING"):
        raise damaged_row(name, f"has the state {unfinished.state!r}")
    raise AdaptationUnfinishedError(
        f"{name} is not over; wait for it, or cancel it with "
        f"`resight adaptations cancel {unfinished.adaptation} --site {site}`"
    )


def earlier_outcome(
    connection: Connection, site: str, key: IdempotencyKey, since: datetime
) -> EnrollOutcome | None:
    """The result of an earlier call with this request id, None if there was none since a time."""
    row = connection.execute(
        select(requests).where(of_site(requests, site), named(requests.c.request, key.id))
    ).first()
    if row is None:
        return None
    name = f"request {key.id} of site {site}"
    refuse_non_text(row, name, ("request", "fingerprint"))
    if stored_time(row.created_us, name) < since:
        return None
    if row.fingerprint != key.content_hash:
        raise RequestIdReusedError(
            f"request id {key.id} was used with other content before; use a new one per request"
        )
    items = [_from_json(item, name) for item in json_list(row.answer, name, "results")]
    given = key.sighting_ids or ("",) * len(items)
    if len(given) != len(items):
        raise damaged_row(name, f"has {len(items)} results for {len(given)} items")
    return EnrollOutcome(_with_ids(connection, site, items, given), repeated=True)


def _with_ids(
    connection: Connection,
    site: str,
    items: Sequence[_StoredRow | CallError],
    given: Sequence[str],
) -> tuple[Stored | CallError, ...]:
    """Results with the ids of those sightings that exist; given: ids in the call, or ""."""
    rows = [item.row for item in items if isinstance(item, _StoredRow)]
    ids = dict(_existing(connection, site, sightings.c.row, rows))
    # A sighting that was replaced since is in another row.
    moved = [
        asked
        for item, asked in zip(items, given, strict=True)
        if isinstance(item, _StoredRow) and item.row not in ids and asked
    ]
    known = {name for _, name in _existing(connection, site, sightings.c.sighting, moved)}

    def result(item: _StoredRow | CallError, asked: str) -> Stored | CallError:
        if isinstance(item, CallError):
            return item
        found = ids.get(item.row) or (asked if asked in known else None)
        if found is None:
            return SightingNotFoundError(
                "the sighting of this item was deleted after it had been enrolled; use a new "
                "request id to enroll it again"
            )
        return Stored(found, item.replaced)

    return tuple(result(item, asked) for item, asked in zip(items, given, strict=True))


def _existing(
    connection: Connection, site: str, column: Any, values: Sequence[object]
) -> Iterator[tuple[int, str]]:
    """Row number and id of the sightings with these values of a column."""
    for start in range(0, len(values), CHUNK):
        wanted = column.in_(values[start : start + CHUNK])
        for row in connection.execute(
            select(sightings.c.row, sightings.c.sighting).where(of_site(sightings, site), wanted)
        ):
            yield row.row, row.sighting


def forget_requests(connection: Connection, before: datetime) -> bool:
    """Delete the request ids of calls before a time, the first `CHUNK`; whether there are more."""
    key = tuple_(requests.c.site, requests.c.request)
    oldest = (
        select(requests.c.site, requests.c.request)
        .where(requests.c.created_us < to_us(before))
        .order_by(requests.c.created_us)
        .limit(CHUNK)
    )
    return connection.execute(delete(requests).where(key.in_(oldest))).rowcount == CHUNK


def remember(
    connection: Connection,
    site: str,
    key: IdempotencyKey,
    outcome: EnrollOutcome,
    now: datetime,
    request_ttl: timedelta,
) -> None:
    """Keep the result of a call for its repetitions.

    Sightings are kept by the numbers of their rows: nothing is left of one that is deleted.
    """
    forget_requests(connection, now - request_ttl)
    # One past its time may be among those that are forgotten later.
    connection.execute(
        delete(requests).where(of_site(requests, site), requests.c.request == key.id)
    )
    numbers = iter(outcome.numbers)
    connection.execute(
        insert(requests).values(
            site=site_number(connection, site),
            request=key.id,
            fingerprint=key.content_hash,
            answer=[
                _error_to_json(item)
                if isinstance(item, CallError)
                else {"row": next(numbers), "replaced": item.replaced}
                for item in outcome.items
            ],
            created_us=to_us(now),
        )
    )


@dataclass(frozen=True, slots=True)
class _StoredRow:
    """A result that is kept: the number of the sighting's row, and whether it replaced another."""

    row: int
    replaced: bool


def _error_to_json(error: CallError) -> dict[str, Any]:
    return {"reason": error.reason, "message": error.message, "metadata": error.metadata}


def _from_json(item: Mapping[str, Any], row: str) -> _StoredRow | CallError:
    try:
        if "row" in item:
            return _StoredRow(int(item["row"]), item["replaced"])
        return _CALL_ERRORS[item["reason"]](item["message"], metadata=item["metadata"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged_row(row, f"has a result that cannot be read ({item!r:.80})") from error
