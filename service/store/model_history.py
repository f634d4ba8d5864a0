"""Which models a site used, one after the other, as the database keeps it: a stack."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from service.errors import ReembedRunningError
from service.store.records import ModelRow
from service.store.statements import lacks_embedding, require_site
from service.store.tables import activations, embeddings, models, sightings, sites
from service.store.times import to_us


def switch(
    connection: Connection,
    site: str,
    model: str,
    *,
    unusable: Collection[int],
    back: bool,
    now: datetime,
) -> int | None:
    """See `Store.switch_model`."""
    before = require_site(connection, site)
    lacking = (sightings.c.site == site) & lacks_embedding(model)
    rows = list(connection.execute(select(sightings.c.row).where(lacking)).scalars())
    if not set(rows) <= set(unusable):
        return None
    connection.execute(delete(sightings).where(lacking))
    of_site = select(sightings.c.row).where(sightings.c.site == site)
    others = embeddings.c.model.not_in([model, before])
    connection.execute(delete(embeddings).where(embeddings.c.row.in_(of_site), others))
    connection.execute(update(sites).where(sites.c.site == site).values(model=model))
    if back:
        undo_activation(connection, site, model)
    else:
        note_activation(connection, site, before, model, now)
    return len(rows)


def note_activation(
    connection: Connection, site: str, before: str, after: str, now: datetime
) -> None:
    """One more model that a site uses; models are fingerprints."""
    known = select(activations.c.number).where(activations.c.site == site).limit(1)
    added = [after] if connection.execute(known).first() else [before, after]
    connection.execute(
        insert(activations),
        [{"site": site, "model": model, "time_us": to_us(now)} for model in added],
    )


def undo_activation(connection: Connection, site: str, after: str) -> None:
    """Take back the last one; raises `ReembedRunningError` unless `after` is the model before."""
    earlier = earlier_model(connection, site)
    if earlier is None or earlier.fingerprint != after:
        raise ReembedRunningError(
            f"site {site} changed to another model meanwhile; look which one it uses, and ask again"
        )
    last = (
        select(activations.c.number)
        .where(activations.c.site == site)
        .order_by(activations.c.number.desc())
        .limit(1)
    )
    connection.execute(delete(activations).where(activations.c.number == last.scalar_subquery()))


def earlier_model(connection: Connection, site: str) -> ModelRow | None:
    """The model that a site used before the one in use, None if there was none."""
    row = connection.execute(
        select(models.c.fingerprint, models.c.reference)
        .join(activations, activations.c.model == models.c.fingerprint)
        .where(activations.c.site == site)
        .order_by(activations.c.number.desc())
        .offset(1)
        .limit(1)
    ).first()
    return None if row is None else ModelRow(row.fingerprint, row.reference)
