"""Names of sightings that servers of before stored in another Unicode form than NFC.

A migration at the start, not two comparisons in each query: filters, counts and adaptations then
compare texts as they are. Only what is newer than the last start is looked at, as a server of
before may have written it: a site with many rows does not wait. Requests are kept by the hash of
what was sent, so a retry still finds them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    LargeBinary,
    and_,
    bindparam,
    cast,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError

from models.text import nfc
from models.wording import plural
from service.errors import StoreFullError
from service.store.damage import read_json
from service.store.tables import composed, sightings
from service.store.writer import store_error

log = logging.getLogger("resight.store")

_CHUNK = 10_000
"""Rows whose names are brought to NFC in one transaction."""

_NAMES = ("camera", "track", "person")


def compose_names(writer: Engine) -> None:
    """Bring cameras, tracks, persons and attributes of stored sightings to NFC.

    Damaged values stay, for the reader of the row to refuse them. With a full disk the server
    starts, and the next start tries again.
    """
    changed = 0
    try:
        composed.create(writer, checkfirst=True)  # databases of before do not have it
        while True:
            with writer.begin() as connection:
                found = _compose_chunk(connection)
            if found is None:
                break
            changed += found
    except DBAPIError as error:
        if not isinstance(store_error(error), StoreFullError):
            raise
        log.warning(
            "names of earlier sightings could not be brought to one Unicode form (NFC), so filters "
            "may not find them: the disk is full; free space, and start again"
        )
    if changed:
        log.info("brought names of %s to one Unicode form (NFC)", plural(changed, "sighting"))


def _compose_chunk(connection: Connection) -> int | None:
    """Go on by some rows; how many changed, None where all are done."""
    after = connection.execute(select(composed.c.row)).scalar() or 0
    last = connection.execute(select(func.max(sightings.c.row))).scalar() or 0
    if after >= last:
        return None
    columns = [cast(sightings.c[name], LargeBinary).label(name) for name in (*_NAMES, "attributes")]
    rows = connection.execute(
        select(sightings.c.row, *columns)
        .where(sightings.c.row > after, or_(*map(_maybe_decomposed, (*_NAMES, "attributes"))))
        .order_by(sightings.c.row)
        .limit(_CHUNK)
    ).all()
    changes: dict[tuple[str, ...], list[dict[str, object]]] = {}
    for row in rows:
        values = _in_nfc(row)
        if values:
            changes.setdefault(tuple(values), []).append({"changed_row": row.row, **values})
    by_row = update(sightings).where(sightings.c.row == bindparam("changed_row"))
    for names, several in changes.items():
        connection.execute(by_row.values({name: bindparam(name) for name in names}), several)
    reached = rows[-1].row if len(rows) == _CHUNK else last
    connection.execute(delete(composed))
    connection.execute(insert(composed).values(row=reached))
    return sum(map(len, changes.values()))


def _maybe_decomposed(name: str) -> ColumnElement[bool]:
    """The condition that a column is text with other characters than those of ASCII."""
    column = sightings.c[name]
    signs: list[ColumnElement[bool]] = [column.bool_op("GLOB")("*[^ -~]*")]
    if name == "attributes":  # JSON escapes them
        signs.append(func.instr(column, "\\u") > 0)
    return and_(func.typeof(column) == "text", or_(*signs))


def _in_nfc(row: Any) -> Mapping[str, object]:
    """The columns that change, with their new values."""
    values: dict[str, object] = {}
    for name in _NAMES:
        text = _text(getattr(row, name))
        if nfc(text) != text:
            values[name] = nfc(text)
    attributes = read_json(_text(row.attributes))
    if isinstance(attributes, dict):
        texts = {key: text for key, text in attributes.items() if isinstance(text, str)}
        changed = _map_in_nfc(texts)
        if len(texts) == len(attributes) and changed != texts:
            values["attributes"] = changed
    return values


def _map_in_nfc(attributes: Mapping[str, str]) -> Mapping[str, str]:
    """Attributes in NFC. A key keeps its form where the sighting has both: nothing is lost."""
    taken = set(attributes)
    changed = {}
    for key, text in attributes.items():
        new = key if nfc(key) in taken else nfc(key)
        taken.add(new)
        changed[new] = nfc(text)
    return changed


def _text(value: bytes) -> str:
    """The text of a column; "" where it is none."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return ""
