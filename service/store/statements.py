"""What the store asks the database, given a connection inside a transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, Select, delete, exists, func, insert, select

from service.errors import (
    AdaptationUnfinishedError,
    CallError,
    ModelMismatchError,
    RequestIdReusedError,
    SightingNotFoundError,
    SiteNotFoundError,
    StoreUnusableError,
    call_errors,
)
from service.gallery.index import IndexEntry
from service.store.records import Answer, NewRow, Request, SiteRow, Stored
from service.store.tables import (
    adaptations,
    crops,
    embeddings,
    models,
    requests,
    sightings,
    sites,
)
from service.store.times import from_us, to_us
from service.types import Sighting, SightingFilter, Vector

CHUNK = 500
"""Most values in one IN (...): databases limit them."""

_CALL_ERRORS = call_errors()


def site_not_found(site: str) -> SiteNotFoundError:
    """The error for a site that does not exist."""
    return SiteNotFoundError(f"there is no site {site}; make it with `resight site create {site}`")


def sighting_not_found(site: str, sighting: str) -> SightingNotFoundError:
    """The error for a sighting that does not exist."""
    return SightingNotFoundError(f"site {site} has no sighting {sighting}")


def site_rows(connection: Connection, site: str | None) -> list[SiteRow]:
    held = (
        select(func.count())
        .select_from(sightings)
        .where(sightings.c.site == sites.c.site)
        .scalar_subquery()
    )
    query = (
        select(sites, models.c.reference, held.label("held"))
        .join(models, models.c.fingerprint == sites.c.model)
        .order_by(sites.c.site)
    )
    if site is not None:
        query = query.where(sites.c.site == site)
    return [
        SiteRow(row.site, row.model, row.reference, from_us(row.created_us), row.held)
        for row in connection.execute(query)
    ]


def require_site(connection: Connection, site: str) -> str:
    """The fingerprint of the site's model."""
    model: str | None = connection.execute(
        select(sites.c.model).where(sites.c.site == site)
    ).scalar()
    if model is None:
        raise site_not_found(site)
    return model


def require_model(connection: Connection, site: str, model: str) -> None:
    bound = require_site(connection, site)
    if bound != model:
        known = select(models.c.fingerprint, models.c.reference).where(
            models.c.fingerprint.in_([bound, model])
        )
        names = {row.fingerprint: row.reference for row in connection.execute(known)}
        raise model_mismatch(site, (names[bound], bound), (names.get(model, "another"), model))


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


def select_sightings(*where: ColumnElement[bool]) -> Select[Any]:
    return (
        select(sightings, crops.c.row.is_not(None).label("crop_kept"))
        .outerjoin(crops, crops.c.row == sightings.c.row)
        .where(*where)
    )


def filtered(query: Select[Any], wanted: SightingFilter) -> Select[Any]:
    columns = sightings.c
    if wanted.cameras:
        query = query.where(columns.camera.in_(wanted.cameras))
    if wanted.exclude_cameras:
        query = query.where(columns.camera.not_in(wanted.exclude_cameras))
    if wanted.start is not None:
        query = query.where(columns.time_us >= to_us(wanted.start))
    if wanted.end is not None:
        query = query.where(columns.time_us < to_us(wanted.end))
    if wanted.persons:
        query = query.where(columns.person.in_(wanted.persons))
    if wanted.exclude_tracks:
        query = query.where(columns.track.not_in(wanted.exclude_tracks))
    return query


def lacks_embedding(model: str) -> Any:
    return ~exists().where(embeddings.c.row == sightings.c.row, embeddings.c.model == model)


def to_sighting(row: Any) -> Sighting:
    return Sighting(
        id=row.sighting,
        camera=row.camera,
        time=from_us(row.time_us),
        track=row.track,
        person=row.person,
        attributes=row.attributes,
        created=from_us(row.created_us),
        crop_kept=bool(row.crop_kept),
    )


def index_entry(row: Any, site: str, dimension: int) -> IndexEntry:
    vector = np.frombuffer(row.vector, "<f4")
    if len(vector) != dimension:
        raise StoreUnusableError(
            f"sighting {row.sighting} of site {site} has a vector of {len(vector)} numbers, not "
            f"{dimension}; the database is damaged: restore it from a backup"
        )
    return IndexEntry(row.row, row.sighting, vector, row.camera, row.time_us, row.track, row.person)


def blob(vector: Vector) -> bytes:
    return vector.astype("<f4").tobytes()


def delete_sightings(connection: Connection, site: str, ids: Sequence[str]) -> set[str]:
    """Delete those of the named sightings that exist; returns their ids."""
    found: set[str] = set()
    for start in range(0, len(ids), CHUNK):
        named = (sightings.c.site == site) & sightings.c.sighting.in_(ids[start : start + CHUNK])
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
    numbers = connection.execute(
        insert(sightings).returning(sightings.c.row, sort_by_parameter_order=True),
        [
            {
                "site": site,
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
    """Raise `AdaptationUnfinishedError` while an adaptation of the site waits or runs."""
    unfinished = connection.execute(
        select(adaptations.c.adaptation).where(
            adaptations.c.site == site, adaptations.c.state.in_(["PENDING", "RUNNING"])
        )
    ).scalar()
    if unfinished is not None:
        raise AdaptationUnfinishedError(
            f"adaptation {unfinished} of site {site} is not over; wait for it, or cancel it with "
            f"`resight adaptations cancel {unfinished} --site {site}`"
        )


def earlier_answer(connection: Connection, site: str, request: Request) -> Answer | None:
    row = connection.execute(
        select(requests).where(requests.c.site == site, requests.c.request == request.id)
    ).first()
    if row is None:
        return None
    if row.fingerprint != request.fingerprint:
        raise RequestIdReusedError(
            f"request id {request.id} came with another content before; make a new one per request"
        )
    return Answer(tuple(_from_json(item) for item in row.answer), repeated=True)


def forget_requests(connection: Connection, before: datetime) -> None:
    connection.execute(delete(requests).where(requests.c.created_us < to_us(before)))


def remember(
    connection: Connection,
    site: str,
    request: Request,
    answer: Answer,
    now: datetime,
    request_ttl: timedelta,
) -> None:
    forget_requests(connection, now - request_ttl)
    connection.execute(
        insert(requests).values(
            site=site,
            request=request.id,
            fingerprint=request.fingerprint,
            answer=[_to_json(item) for item in answer.items],
            created_us=to_us(now),
        )
    )


def _to_json(item: Stored | CallError) -> dict[str, Any]:
    if isinstance(item, Stored):
        return {"id": item.id, "replaced": item.replaced}
    return {"reason": item.reason, "message": item.message, "metadata": item.metadata}


def _from_json(item: Mapping[str, Any]) -> Stored | CallError:
    if "id" in item:
        return Stored(item["id"], item["replaced"])
    return _CALL_ERRORS[item["reason"]](item["message"], metadata=item["metadata"])
