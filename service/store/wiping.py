"""The statements that delete in chunks what no caller sees any more.

Without a name, a site is deleted: its sightings, requests and activations are wiped, then its row.
Sightings that are dropped all at once are moved to such a site. Of a site with a name, the vectors
of unwanted models are wiped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, case, delete, func, insert, select, tuple_, update

from service.store.tables import (
    activations,
    crops,
    embeddings,
    requests,
    sightings,
    site_vectors,
    sites,
)

CHUNK_ROWS = 500
"""Most sightings of one chunk; others write between two chunks."""

CHUNK_BYTES = 4_000_000
"""Most bytes of crops in one chunk, but for a single sighting: deleted bytes are overwritten."""

_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Pass:
    """A pass over the sightings of a site that wipes vectors of models, up to the id `after`.

    models: with their generation. One that became wanted meanwhile, and unwanted again, has another
    one, and gets a pass of its own from the beginning.
    """

    site: int
    models: frozenset[tuple[str, int]]
    after: str


@dataclass(frozen=True, slots=True)
class Wiped:
    """What one chunk did. over: there is nothing left. next: where to continue."""

    over: bool
    next: Pass | None = None


def want_vectors(connection: Connection, site: int, model: str) -> None:
    """Note that a site has vectors of a model, which are to be kept."""
    known = (site_vectors.c.site == site) & (site_vectors.c.model == model)
    generation = site_vectors.c.generation + case((site_vectors.c.unwanted, 1), else_=0)
    wanted = update(site_vectors).where(known).values(unwanted=False, generation=generation)
    if connection.execute(wanted).rowcount == 0:
        connection.execute(
            insert(site_vectors).values(site=site, model=model, unwanted=False, generation=0)
        )


def move_to_deleted_site(connection: Connection, rows: Sequence[int], model: str) -> None:
    """Let sightings, by row number, be gone for all callers."""
    if not rows:
        return
    added = insert(sites).values(site=None, model=model, created_us=0).returning(sites.c.number)
    number = connection.execute(added).scalar_one()
    for start in range(0, len(rows), _CHUNK):
        moved = sightings.c.row.in_(rows[start : start + _CHUNK])
        connection.execute(update(sightings).where(moved).values(site=number))


def wipe_chunk(connection: Connection, going: Pass | None) -> Wiped:
    """Delete the next chunk; going: the pass that the chunk before has begun."""
    site: int | None = connection.execute(
        select(sites.c.number).where(sites.c.site.is_(None)).limit(1)
    ).scalar()
    if site is not None:
        _wipe_site(connection, site)
        return Wiped(over=False, next=going)
    if going is None:
        going = _next_pass(connection)
    if going is None:
        return Wiped(over=True)
    return Wiped(over=False, next=_wipe_vectors(connection, going))


def _wipe_site(connection: Connection, site: int) -> None:
    found = connection.execute(
        select(sightings.c.row, func.coalesce(func.length(crops.c.image), 0).label("size"))
        .outerjoin(crops, crops.c.row == sightings.c.row)
        .where(sightings.c.site == site)
        .limit(CHUNK_ROWS)
    )
    rows: list[int] = []
    size = 0
    for row in found.all():
        size += row.size
        if rows and size > CHUNK_BYTES:
            break
        rows.append(row.row)
    if rows:
        connection.execute(delete(sightings).where(sightings.c.row.in_(rows)))
        return
    some = select(requests.c.site, requests.c.request).where(requests.c.site == site).limit(_CHUNK)
    key = tuple_(requests.c.site, requests.c.request)
    if connection.execute(delete(requests).where(key.in_(some))).rowcount:
        return
    connection.execute(delete(activations).where(activations.c.site == site))
    connection.execute(delete(sites).where(sites.c.number == site))


def _next_pass(connection: Connection) -> Pass | None:
    unwanted = site_vectors.c.unwanted.is_(True)
    site = connection.execute(select(site_vectors.c.site).where(unwanted).limit(1)).scalar()
    if site is None:
        return None
    query = select(site_vectors.c.model, site_vectors.c.generation)
    found = connection.execute(query.where(site_vectors.c.site == site, unwanted))
    return Pass(site, frozenset((row.model, row.generation) for row in found), after="")


def _wipe_vectors(connection: Connection, going: Pass) -> Pass | None:
    """Continue a pass; None: it is at its end."""
    known = tuple_(site_vectors.c.model, site_vectors.c.generation)
    of_pass = (site_vectors.c.site == going.site) & known.in_(going.models)
    # A rollover to one of them that has begun meanwhile keeps its vectors.
    still = select(site_vectors.c.model).where(of_pass, site_vectors.c.unwanted.is_(True))
    models = list(connection.execute(still).scalars())
    found = connection.execute(
        select(sightings.c.row, sightings.c.sighting)
        .where(sightings.c.site == going.site, sightings.c.sighting > going.after)
        .order_by(sightings.c.sighting)
        .limit(CHUNK_ROWS)
    ).all()
    if models and found:
        rows = [row.row for row in found]
        connection.execute(
            delete(embeddings).where(embeddings.c.row.in_(rows), embeddings.c.model.in_(models))
        )
    if models and len(found) == CHUNK_ROWS:
        return Pass(going.site, going.models, found[-1].sighting)
    connection.execute(delete(site_vectors).where(of_pass, site_vectors.c.unwanted.is_(True)))
    return None
