"""The models that a site used: a stack, whose last entry is the model in use."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import Connection, delete, func, insert, select, update

from service.errors import RolloverRunningError, SiteNotFoundError
from service.store.damage import damaged_row, refuse_non_text
from service.store.records import Checked, ModelRow
from service.store.statements import CHUNK, lacks_embedding, of_site, require_site, site_number
from service.store.tables import activations, models, sightings, site_vectors, sites
from service.store.times import to_us
from service.store.wiping import move_to_deleted_site, want_vectors


def check_vectors(connection: Connection, site: str, model: str, before: Checked) -> Checked:
    """See `Store.check_vectors`."""
    number = same_site(connection, site, before.site)
    last = connection.execute(select(func.max(sightings.c.row))).scalar() or 0
    return Checked(number, last, tuple(_lacking(connection, number, model, before)))


def same_site(connection: Connection, site: str, wanted: int) -> int:
    """The number of a site; `SiteNotFoundError` where it is not the wanted one, 0: any."""
    number = site_number(connection, site)
    if wanted not in (0, number):
        raise SiteNotFoundError(
            f"site {site} was deleted, and made anew, meanwhile; if the new one is meant, send the "
            "call again"
        )
    return number


def _lacking(connection: Connection, site: int, model: str, before: Checked) -> list[int]:
    """Numbers of the rows that lack a vector, of those that need a look.

    Rows get higher numbers in the order of their commits, and no wanted vector is deleted without
    its row: a row that had one still has it.
    """
    new = sightings.c.site == site, sightings.c.row > before.row
    query = select(sightings.c.row).where(*new, lacks_embedding(model))
    found = list(connection.execute(query).scalars())
    for start in range(0, len(before.lacking), CHUNK):
        again = sightings.c.row.in_(before.lacking[start : start + CHUNK])
        query = select(sightings.c.row).where(
            sightings.c.site == site, again, lacks_embedding(model)
        )
        found += connection.execute(query).scalars()
    return found


def drop_sightings(
    connection: Connection, site: str, model: str, rows: Sequence[int], number: int
) -> Sequence[str]:
    """See `Store.drop_sightings`."""
    found = connection.execute(
        select(sightings.c.row, sightings.c.sighting).where(
            sightings.c.site == same_site(connection, site, number),
            sightings.c.row.in_(rows),
            lacks_embedding(model),
        )
    ).all()
    move_to_deleted_site(connection, [row.row for row in found], model)
    return [row.sighting for row in found]


def bind_site(
    connection: Connection,
    site: str,
    model: str,
    *,
    checked: Checked,
    unusable: Collection[int],
    undo: bool,
    now: datetime,
) -> int | None:
    """See `Store.bind_site`."""
    number = same_site(connection, site, checked.site)
    before = require_site(connection, site)
    rows = _lacking(connection, number, model, checked)
    if not set(rows) <= set(unusable):
        return None
    move_to_deleted_site(connection, rows, model)
    want_vectors(connection, number, model)
    connection.execute(
        update(site_vectors)
        .where(site_vectors.c.site == number, site_vectors.c.model.not_in([model, before]))
        .values(unwanted=True)
    )
    connection.execute(update(sites).where(sites.c.number == number).values(model=model))
    if undo:
        undo_activation(connection, site, model)
    else:
        add_activation(connection, site, before, model, now)
    return len(rows)


def add_activation(
    connection: Connection, site: str, before: str, after: str, now: datetime
) -> None:
    """Add an activation of model `after`; models are fingerprints."""
    number = site_number(connection, site)
    known = select(activations.c.number).where(activations.c.site == number).limit(1)
    added = [after] if connection.execute(known).first() else [before, after]
    connection.execute(
        insert(activations),
        [{"site": number, "model": model, "time_us": to_us(now)} for model in added],
    )


def undo_activation(connection: Connection, site: str, after: str) -> None:
    """Remove the last activation.

    Raises:
        RolloverRunningError: `after` is not the model before it.
    """
    earlier = earlier_model(connection, site)
    if earlier is None or earlier.fingerprint != after:
        raise RolloverRunningError(
            f"site {site} got another model meanwhile; check which one it uses, then try again"
        )
    last = (
        select(activations.c.number)
        .where(of_site(activations, site))
        .order_by(activations.c.number.desc())
        .limit(1)
    )
    connection.execute(delete(activations).where(activations.c.number == last.scalar_subquery()))


def earlier_model(connection: Connection, site: str) -> ModelRow | None:
    """The model that a site used before the one in use, None if there was none."""
    row = connection.execute(
        select(activations.c.model, models.c.reference)
        .outerjoin(models, models.c.fingerprint == activations.c.model)
        .where(of_site(activations, site))
        .order_by(activations.c.number.desc())
        .offset(1)
        .limit(1)
    ).first()
    if row is None:
        return None
    if row.reference is None:
        raise damaged_row(
            f"the earlier model {row.model[:12]} of site {site}", "is not in `models`"
        )
    refuse_non_text(row, f"the earlier model {row.model[:12]} of site {site}", ("reference",))
    return ModelRow(row.model, row.reference)
