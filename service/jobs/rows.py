"""Adaptations in the store, one row each: they survive a restart of the server.

PENDING -> RUNNING -> SUCCEEDED | FAILED | CANCELLED
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import (
    Connection,
    LargeBinary,
    Select,
    case,
    cast,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)

from models.job_contract import GATE_FILE, GateVerdict
from service.errors import (
    AdaptationNotFoundError,
    AdaptationOverError,
    BadAdaptationError,
    DamagedRowError,
    NoCropsError,
)
from service.jobs.records import (
    MAX_ERROR,
    MAX_NAME,
    MAX_REASON,
    MAX_REASONS,
    Adaptation,
    AdaptationSpec,
    JobResult,
    JobState,
)
from service.store.damage import (
    damaged_row,
    json_list,
    refuse_non_text,
    stored_bytes,
    stored_time,
)
from service.store.records import SeenCrop
from service.store.statements import named, of_site, refuse_unfinished, require_site
from service.store.store import Store
from service.store.tables import adaptations, crops, pending_folder_deletions, sightings
from service.store.times import to_us

T = TypeVar("T")

_UNFINISHED = [state.value for state in JobState if not state.over]
_TEXTS = ("adaptation", "site", "method", "recipe", "reason", "error", "model", "verdict")
_CROPS_AT_A_TIME = 64

_SMALL_FIELDS_BYTES = 1024
"""Most bytes on the wire of the fields of an adaptation that are names, times and numbers."""


class JobRows:
    """The table `adaptations`, and the crops to learn from. Any thread may call what reads."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, site: str, adaptation: str) -> Adaptation:
        """One adaptation; raises `SiteNotFoundError` or `AdaptationNotFoundError`."""
        with self._store.reading() as connection:
            require_site(connection, site)
            return _one(connection, site, adaptation)

    def page(
        self, site: str, *, after: str, limit: int, max_bytes: int = sys.maxsize
    ) -> tuple[list[Adaptation], bool]:
        """The first `limit` adaptations of a site, oldest first, and whether there are more.

        after: only those that were added after the one of this id; all for an unknown one.
        max_bytes: on the wire; fewer are read where they might have more, but at least one.
        Raises `SiteNotFoundError`.
        """
        found: list[Adaptation] = []
        with self._store.reading() as connection:
            require_site(connection, site)
            for row in connection.execute(_page(site, after, limit + 1)):
                max_bytes -= row.bytes
                if len(found) == limit or (found and max_bytes < 0):
                    return found, True
                found.append(_from_row(row))
        return found, False

    def page_bytes(self, site: str, *, after: str, limit: int) -> int:
        """At least as many bytes as a page takes on the wire; `SiteNotFoundError`."""
        rows = _page(site, after, limit).subquery()
        with self._store.reading() as connection:
            require_site(connection, site)
            return int(connection.execute(select(func.sum(rows.c.bytes))).scalar() or 0)

    def states(self) -> dict[str, JobState | DamagedRowError]:
        """The states of all adaptations of all sites, by id; the error where it is damaged."""
        query = select(adaptations.c.adaptation, adaptations.c.site, adaptations.c.state)
        with self._store.reading() as connection:
            rows = connection.execute(query)
            return {row.adaptation: _or_damage(_state, row) for row in rows}

    def pending_folder_deletions(self) -> list[str | DamagedRowError]:
        """Ids of adaptations whose site was deleted, and whose folders are to be removed.

        In place of a damaged row stands its error.
        """
        with self._store.reading() as connection:
            rows = connection.execute(select(pending_folder_deletions)).all()
        return [_or_damage(_leftover, row) for row in rows]

    def forget_folder_deletions(self, removed: Sequence[str]) -> Future[None]:
        """Note that these folders are no more."""

        def apply(connection: Connection) -> None:
            connection.execute(
                delete(pending_folder_deletions).where(
                    pending_folder_deletions.c.adaptation.in_(removed)
                )
            )

        return self._store.submit(apply)

    def unfinished(self) -> list[Adaptation | DamagedRowError]:
        """Adaptations that run or wait, in the order in which the server runs them.

        In place of a damaged row stands its error: the others are to be run all the same.
        """
        waits = case((adaptations.c.state == JobState.PENDING.value, 1), else_=0)
        query = (
            select(adaptations)
            .where(adaptations.c.state.in_(_UNFINISHED))
            .order_by(waits, adaptations.c.number)
        )
        with self._store.reading() as connection:
            return [_or_damage(_from_row, row) for row in connection.execute(query)]

    def kept_crops(self, site: str) -> Iterator[list[SeenCrop]]:
        """The kept crops of a site in the order of enrollment, `_CROPS_AT_A_TIME` in each list.

        They come with what a camera knows: no identity, no sighting id, no attributes. Raises
        `DamagedRowError`.
        """
        after = 0
        while True:
            query = (
                select(
                    sightings.c.row,
                    sightings.c.camera,
                    sightings.c.track,
                    sightings.c.time_us,
                    crops.c.image,
                )
                .join(crops, crops.c.row == sightings.c.row)
                .where(of_site(sightings, site), sightings.c.row > after)
                .order_by(sightings.c.row)
                .limit(_CROPS_AT_A_TIME)
            )
            with self._store.reading() as connection:
                rows = connection.execute(query).all()
            if not rows:
                return
            yield [_seen_crop(row, site) for row in rows]
            after = rows[-1].row

    def add(
        self, adaptation: str, site: str, spec: AdaptationSpec, now: datetime
    ) -> Future[Adaptation]:
        """Add an adaptation in state PENDING.

        Raises (in the future): `SiteNotFoundError`, `AdaptationUnfinishedError`, `NoCropsError`.
        """

        def apply(connection: Connection) -> Adaptation:
            require_site(connection, site)
            refuse_unfinished(connection, site)
            kept = select(crops.c.row).join(sightings, sightings.c.row == crops.c.row)
            if connection.execute(kept.where(of_site(sightings, site)).limit(1)).first() is None:
                raise NoCropsError(
                    f"site {site} keeps no crops to learn from; enroll some, with the server's "
                    "RESIGHT_KEEP_CROPS on"
                )
            connection.execute(
                insert(adaptations).values(
                    adaptation=adaptation,
                    site=site,
                    method=spec.method,
                    recipe=spec.recipe,
                    overrides=list(spec.overrides),
                    seed=spec.seed,
                    state=JobState.PENDING.value,
                    cancel=False,
                    reason="",
                    error="",
                    created_us=to_us(now),
                    model="",
                    verdict="",
                    verdict_reasons=[],
                )
            )
            return _one(connection, site, adaptation)

        return self._store.submit(apply)

    def cancel(self, site: str, adaptation: str, now: datetime) -> Future[Adaptation]:
        """Cancel an adaptation that waits; mark one that runs to be cancelled by its runner.

        Raises (in the future): `SiteNotFoundError`, `AdaptationNotFoundError`,
        `AdaptationOverError`.
        """

        def apply(connection: Connection) -> Adaptation:
            require_site(connection, site)
            found = _one(connection, site, adaptation)
            if found.state is JobState.CANCELLED:
                return found
            if found.state.over:
                raise AdaptationOverError(
                    f"adaptation {adaptation} of site {site} is over: {found.state.value}"
                )
            changes: dict[str, Any] = {"cancel": True}
            if found.state is JobState.PENDING:
                changes |= {"state": JobState.CANCELLED.value, "ended_us": to_us(now)}
            _change(connection, adaptation, changes)
            return _one(connection, site, adaptation)

        return self._store.submit(apply)

    def begin(self, adaptation: Adaptation, now: datetime) -> Future[Adaptation]:
        """Mark as running. Returns the new row, which is over if it was cancelled meanwhile."""

        def apply(connection: Connection) -> Adaptation:
            found = _one(connection, adaptation.site, adaptation.id)
            if not found.state.over:
                started = to_us(found.started or now)
                running = {"state": JobState.RUNNING.value, "started_us": started}
                _change(connection, adaptation.id, running)
            return _one(connection, adaptation.site, adaptation.id)

        return self._store.submit(apply)

    def finish(self, adaptation: Adaptation, result: JobResult, now: datetime) -> Future[None]:
        """Store how an adaptation ended; long texts are cut, as each list shows them."""
        gate = result.gate
        reasons = [_cut(reason, MAX_REASON) for reason in gate.reasons] if gate else []
        if len(reasons) > MAX_REASONS:
            left_out = f"{len(reasons) - MAX_REASONS + 1} more: see {GATE_FILE}"
            reasons[MAX_REASONS - 1 :] = [left_out]

        def apply(connection: Connection) -> None:
            _change(
                connection,
                adaptation.id,
                {
                    "state": result.state.value,
                    "reason": _cut(result.reason, MAX_NAME),
                    "error": _cut(result.error, MAX_ERROR),
                    "ended_us": to_us(now),
                    "model": result.model,
                    "verdict": gate.verdict if gate else "",
                    "verdict_reasons": reasons,
                },
            )

        return self._store.submit(apply)


def _seen_crop(row: Any, site: str) -> SeenCrop:
    name = f"the sighting in row {row.row} of site {site}"
    refuse_non_text(row, name, ("camera", "track"))
    image = stored_bytes(row.image, name, "a crop")
    return SeenCrop(row.row, row.camera, row.track, stored_time(row.time_us, name), image)


def _page(site: str, after: str, limit: int) -> Select[Any]:
    """Rows of `adaptations`, each with the bytes that it takes on the wire at most."""
    last = select(adaptations.c.number).where(adaptations.c.adaptation == after)
    texts = (
        func.coalesce(func.length(cast(column, LargeBinary)), 0)
        for column in (
            adaptations.c.overrides,
            adaptations.c.reason,
            adaptations.c.error,
            adaptations.c.verdict_reasons,
        )
    )
    return (
        select(adaptations, sum(texts, literal(_SMALL_FIELDS_BYTES)).label("bytes"))
        .where(
            named(adaptations.c.site, site),
            adaptations.c.number > func.coalesce(last.scalar_subquery(), 0),
        )
        .order_by(adaptations.c.number)
        .limit(limit)
    )


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _change(connection: Connection, adaptation: str, changes: dict[str, Any]) -> None:
    connection.execute(
        update(adaptations).where(adaptations.c.adaptation == adaptation).values(changes)
    )


def _one(connection: Connection, site: str, adaptation: str) -> Adaptation:
    found = connection.execute(
        select(adaptations).where(
            named(adaptations.c.site, site), named(adaptations.c.adaptation, adaptation)
        )
    ).first()
    if found is None:
        raise AdaptationNotFoundError(
            f"site {site} has no adaptation {adaptation}; `resight adaptations list --site {site}` "
            "shows those it has"
        )
    return _from_row(found)


def _from_row(row: Any) -> Adaptation:
    """Raises `DamagedRowError`."""
    name = f"adaptation {row.adaptation} of site {row.site}"
    refuse_non_text(row, name, _TEXTS)
    overrides = tuple(json_list(row.overrides, name, "overrides"))
    reasons = json_list(row.verdict_reasons, name, "reasons of the verdict")
    try:
        return Adaptation(
            id=row.adaptation,
            site=row.site,
            spec=AdaptationSpec(row.method, row.recipe, overrides, row.seed),
            state=JobState(row.state),
            created=stored_time(row.created_us, name),
            started=None if row.started_us is None else stored_time(row.started_us, name),
            ended=None if row.ended_us is None else stored_time(row.ended_us, name),
            cancel=row.cancel,
            reason=row.reason,
            error=row.error,
            model=row.model,
            gate=GateVerdict(verdict=row.verdict, reasons=reasons) if row.verdict else None,
        )
    except (BadAdaptationError, ValueError, TypeError) as error:
        raise damaged_row(name, f"has a value that cannot be read ({error})") from error


def _or_damage(read: Callable[[Any], T], row: Any) -> T | DamagedRowError:
    try:
        return read(row)
    except DamagedRowError as error:
        return error


def _leftover(row: Any) -> str:
    refuse_non_text(row, f"the deleted adaptation {row.adaptation}", ("adaptation",))
    adaptation: str = row.adaptation
    return adaptation


def _state(row: Any) -> JobState:
    refuse_non_text(row, f"adaptation {row.adaptation} of site {row.site}", ("adaptation", "site"))
    try:
        return JobState(row.state)
    except ValueError as error:
        raise damaged_row(f"adaptation {row.adaptation}", f"has the state {row.state!r}") from error
