"""The database of sites, sightings, crops and embeddings, which everything else is derived from.

Reads may be called from any thread. A write gives a future that is done after its commit; its
`then` is called with the result in the order of the commits, before the future is done.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, delete, func, insert, inspect, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from service.errors import (
    CallError,
    SiteExistsError,
    SiteNotEmptyError,
    StoreBusyError,
    StoreUnusableError,
)
from service.operations.metrics import Metrics
from service.store.backlog import Backlog
from service.store.composing import compose_names
from service.store.damage import stored_bytes
from service.store.foreign_log import refuse_foreign_log
from service.store.log_emptier import LogEmptier
from service.store.model_history import (
    bind_site,
    check_vectors,
    drop_sightings,
    earlier_model,
    same_site,
)
from service.store.records import (
    UNCHECKED,
    Checked,
    EnrollOutcome,
    IdempotencyKey,
    IndexEntry,
    KeptCrop,
    ModelRow,
    NewRow,
    SiteRow,
    Stored,
)
from service.store.sqlite import check_log, open_all, open_sqlite, opening, refuse_lone_log
from service.store.statements import (
    CHUNK,
    blob,
    camera_summary,
    delete_sightings,
    earlier_outcome,
    filtered,
    forget_requests,
    index_entry,
    insert_rows,
    lacks_embedding,
    named,
    of_site,
    refuse_damaged_persons,
    refuse_unfinished,
    remember,
    require_model,
    require_site,
    select_sightings,
    select_vectors,
    sighting_not_found,
    site_not_found,
    site_number,
    site_rows,
    to_sighting,
)
from service.store.tables import (
    SCHEMA_VERSION,
    adaptations,
    composed,
    crops,
    embeddings,
    metadata,
    models,
    pending_folder_deletions,
    schema,
    sightings,
    sites,
)
from service.store.times import to_us
from service.store.wiper import Wiper
from service.store.wiping import want_vectors
from service.store.writer import Writer, store_error
from service.types import (
    ALL_DETAIL,
    CameraSummary,
    Detail,
    Sighting,
    SightingFilter,
    Vector,
)

T = TypeVar("T")

_COUNTED = 1000
"""Most sightings that are counted by the writer."""

_READ_RETRY_S = 1.0
"""Seconds until a caller should try again where no connection gets free."""

_LOAD_CHUNK = 4096
"""Rows read at a time when an index is built."""


class Store:
    """Everything that is durable. One process at a time may have it open."""

    def __init__(self, reader: Engine, writer: Engine, metrics: Metrics) -> None:
        """Keep one of the reader's connections for the writer."""
        self._reader = reader
        # What the writer reads after a commit waits for no other read, as every write waits for it.
        self._reader_of_writer = reader.connect()
        self._write_engine = writer
        self._writer = Writer(writer, metrics)
        self._log = LogEmptier(writer, self.in_writer)
        log_file = Path(f"{writer.url.database}-wal")
        self._backlog = Backlog(log_file, reader, writer, self.in_writer)
        self._wiper = Wiper(self.submit, self._log.after_deletion)
        metrics.store_deleted.labels("db").set_function(lambda: self._wiper.pending_s)
        metrics.store_deleted.labels("wal").set_function(lambda: self._log.pending_s)

    @classmethod
    def open(cls, path: Path, metrics: Metrics, *, readers: int = 4) -> Store:
        """Open the SQLite database at `path`, made if absent.

        readers: reads at a time, >= 1; a further one waits. Their files stay open from here on.

        Raises:
            StoreUnusableError: not a database, a damaged one, one of another version, or one that
                cannot be read and written.
        """
        with opening(path):
            refuse_lone_log(path)
            refuse_foreign_log(path)
            reader, writer = open_sqlite(path, readers=readers + 1)
            try:
                _create_or_check(writer, path)
                check_log(writer)
                compose_names(writer)
                open_all(reader, readers + 1)
            except BaseException:
                reader.dispose()
                writer.dispose()
                raise
        store = cls(reader, writer, metrics)
        # A crash, or a full disk, may have left it.
        try:
            store.in_writer(store._log.after_deletion).result()
            store.in_writer(store._wiper.notify).result()
        except CallError as error:  # e.g. another process holds it from now on
            store.close()
            raise StoreUnusableError(f"{path} cannot be written: {error}") from error
        return store

    def close(self) -> None:
        """Finish the queued writes and close the database."""
        self._wiper.close()
        self._log.close()
        self._backlog.close()
        self._writer.close()
        self._reader_of_writer.close()
        self._reader.dispose()
        self._write_engine.dispose()

    @property
    def wiping(self) -> bool:
        """Whether something that is deleted for callers is still in the database or its log."""
        return self._wiper.pending or self._log.pending

    # --- reads

    def sites(self) -> list[SiteRow]:
        """All sites, ordered by id."""
        with self.reading() as connection:
            return site_rows(connection, None)

    def site(self, site: str) -> SiteRow:
        """One site; raises `SiteNotFoundError`."""
        with self.reading() as connection:
            rows = site_rows(connection, site)
        if not rows:
            raise site_not_found(site)
        return rows[0]

    def sighting(self, site: str, sighting: str) -> Sighting:
        """One sighting; raises `SiteNotFoundError` or `SightingNotFoundError`."""
        with self.reading() as connection:
            require_site(connection, site)
            found = connection.execute(
                select_sightings(of_site(sightings, site), named(sightings.c.sighting, sighting))
            ).first()
        if found is None:
            raise sighting_not_found(site, sighting)
        return to_sighting(found)

    def crop(self, site: str, sighting: str) -> bytes | None:
        """The kept image of a sighting, None if there is none."""
        query = (
            select(crops.c.image)
            .join(sightings, sightings.c.row == crops.c.row)
            .where(of_site(sightings, site), named(sightings.c.sighting, sighting))
        )
        with self.reading() as connection:
            image = connection.execute(query).scalar()
        name = f"sighting {sighting} of site {site}"
        return None if image is None else stored_bytes(image, name, "a crop")

    def sightings_by_id(
        self, site: str, ids: Sequence[str], max_bytes: int = sys.maxsize
    ) -> dict[str, Sighting]:
        """Those of the named sightings that exist.

        max_bytes: how many bytes their attributes may have, all together; sightings after the
        first one that exceeds it come without attributes.
        """
        found: dict[str, Sighting] = {}
        with self.reading() as connection:
            for start in range(0, len(ids), CHUNK):
                chunk = ids[start : start + CHUNK]
                for detail in (Detail(max_bytes=max_bytes), Detail(attributes=False)):
                    if detail.attributes and max_bytes < 0:
                        continue
                    query = select_sightings(
                        of_site(sightings, site),
                        sightings.c.sighting.in_([each for each in chunk if each not in found]),
                        attributes=detail.attributes,
                    )
                    for _, sighting in _read(connection.execute(query), detail):
                        found[sighting.id] = sighting
                        max_bytes -= sighting.attribute_bytes
                    if max_bytes >= 0:
                        break
        return found

    def sightings_by_number(
        self, numbers: Sequence[int], detail: Detail = ALL_DETAIL
    ) -> dict[int, Sighting]:
        """Those of the rows that exist: one that was replaced is in another row."""
        with self.reading() as connection:
            rows = (
                row
                for start in range(0, len(numbers), CHUNK)
                for row in connection.execute(
                    select_sightings(
                        sightings.c.row.in_(numbers[start : start + CHUNK]),
                        attributes=detail.attributes,
                    )
                )
            )
            return dict(_read(rows, detail))

    def list_sightings(
        self,
        site: str,
        wanted: SightingFilter,
        *,
        after: str,
        limit: int,
        detail: Detail = ALL_DETAIL,
    ) -> list[Sighting]:
        """The first `limit` sightings with an id above `after`, ordered by id."""
        found = select_sightings(of_site(sightings, site), attributes=detail.attributes)
        query = (
            filtered(found, wanted)
            .where(sightings.c.sighting > after)
            .order_by(sightings.c.sighting)
            .limit(limit)
        )
        with self.reading() as connection:
            require_site(connection, site)
            if wanted.persons:
                refuse_damaged_persons(connection, site)
            return [sighting for _, sighting in _read(connection.execute(query), detail)]

    def cameras(self, site: str) -> list[CameraSummary]:
        """What there is of each camera, ordered by name; reads the whole site."""
        seen = sightings.c
        query = (
            select(
                seen.camera,
                func.count().label("held"),
                func.min(seen.time_us).label("first_us"),
                func.max(seen.time_us).label("last_us"),
            )
            .where(of_site(sightings, site))
            .group_by(seen.camera)
        )
        with self.reading() as connection:
            require_site(connection, site)
            found = [camera_summary(row, site) for row in connection.execute(query)]
        return sorted(found, key=lambda each: each.camera)

    def values(self, site: str, field: str) -> list[str]:
        """What the sightings of a site have as camera, track or person; reads the whole site."""
        column = sightings.c[field]
        query = select(column).where(of_site(sightings, site), column != "").distinct()
        with self.reading() as connection:
            require_site(connection, site)
            found = connection.execute(query).scalars()
            return [value for value in found if isinstance(value, str)]

    def index_entries(self, site: str, model: str, dimension: int) -> Iterator[list[IndexEntry]]:
        """All embeddings of one model in a site, in chunks.

        Raises:
            DamagedRowError: of a sighting or its vector, also where it has none of this model.
        """
        for rows in self._vectors(site, model):
            yield [index_entry(row, site, dimension) for row in rows]

    def embedded_entries(
        self, site: str, model: str, dimension: int, ids: Sequence[str] | None
    ) -> Iterator[tuple[list[IndexEntry], list[str]]]:
        """The embeddings of one model that these sightings have, or all of a site, in chunks.

        With each chunk come the ids of sightings that have none.

        Raises:
            DamagedRowError: of a sighting or its vector.
        """
        for rows in self._vectors(site, model) if ids is None else self._named(site, model, ids):
            yield (
                [index_entry(row, site, dimension) for row in rows if row.vector is not None],
                [row.sighting for row in rows if row.vector is None],
            )

    def _vectors(self, site: str, model: str) -> Iterator[Sequence[Any]]:
        """Rows of `select_vectors`, by id. Each chunk is a read of its own: long ones would keep
        the log from being emptied."""
        after = ""
        while True:
            query = (
                select_vectors(site, model)
                .where(sightings.c.sighting > after)
                .order_by(sightings.c.sighting)
                .limit(_LOAD_CHUNK)
            )
            with self.reading() as connection:
                rows = connection.execute(query).all()
            if not rows:
                return
            yield rows
            after = rows[-1].sighting

    def _named(self, site: str, model: str, ids: Sequence[str]) -> Iterator[Sequence[Any]]:
        for start in range(0, len(ids), CHUNK):
            named = sightings.c.sighting.in_(ids[start : start + CHUNK])
            with self.reading() as connection:
                rows = connection.execute(select_vectors(site, model).where(named)).all()
            yield rows

    def check_vectors(self, site: str, model: str, before: Checked) -> Checked:
        """Look for sightings without a vector of a model, among those that were not seen before.

        Raises:
            SiteNotFoundError: there is none, or another one of this name.
        """
        with self.reading() as connection:
            return check_vectors(connection, site, model, before)

    def crops_without_embedding(
        self, site: str, model: str, *, after: int, limit: int, number: int = 0
    ) -> list[KeptCrop]:
        """The next sightings by row number that lack an embedding of `model`.

        number: of the site, 0: any. `SiteNotFoundError` where it has another one.
        """
        query = (
            select(sightings.c.row, sightings.c.sighting, crops.c.image)
            .outerjoin(crops, crops.c.row == sightings.c.row)
            .where(of_site(sightings, site), sightings.c.row > after, lacks_embedding(model))
            .order_by(sightings.c.row)
            .limit(limit)
        )
        with self.reading() as connection:
            if number:
                same_site(connection, site, number)
            return [_kept_crop(row, site) for row in connection.execute(query)]

    def count_embedded(self, site: str, model: str) -> int:
        """Sightings of a site that have an embedding of `model`."""
        query = (
            select(func.count())
            .select_from(sightings)
            .where(of_site(sightings, site), ~lacks_embedding(model))
        )
        with self.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def earlier_model(self, site: str) -> ModelRow | None:
        """The model that a site used before the one in use, None if there was none."""
        with self.reading() as connection:
            require_site(connection, site)
            return earlier_model(connection, site)

    def earlier_outcome(
        self, site: str, model: str, key: IdempotencyKey, since: datetime
    ) -> EnrollOutcome | None:
        """The result of an earlier call with this request id, None if there was none since a time.

        Raises:
            SiteNotFoundError, ModelMismatchError: as for `enroll`.
            RequestIdReusedError: the earlier call had other content.
        """
        with self.reading() as connection:
            require_model(connection, site, model)
            return earlier_outcome(connection, site, key, since)

    # --- writes

    def register_model(self, fingerprint: str, reference: str) -> None:
        """Make a model known, so that sites can be bound to it."""

        def apply(connection: Connection) -> None:
            known = connection.execute(
                update(models)
                .where(models.c.fingerprint == fingerprint)
                .values(reference=reference)
            )
            if known.rowcount == 0:
                connection.execute(
                    insert(models).values(fingerprint=fingerprint, reference=reference)
                )

        self.submit(apply).result()

    def begin_rollover(self, site: str, model: str, reference: str) -> int:
        """Register a model, of which a site is to get vectors; those that it has are kept.

        Returns:
            The number of the site: one that is made anew under its name has another.

        Raises:
            SiteNotFoundError
        """
        self.register_model(model, reference)

        def apply(connection: Connection) -> int:
            number = site_number(connection, site)
            want_vectors(connection, number, model)
            return number

        return self.submit(apply).result()

    def create_site(
        self, site: str, model: str, now: datetime, then: Callable[[None], None]
    ) -> Future[None]:
        """Add an empty site; `SiteExistsError` if the name is taken."""

        def apply(connection: Connection) -> None:
            if site_rows(connection, site):
                raise SiteExistsError(f"there is a site {site} already; choose another name")
            connection.execute(insert(sites).values(site=site, model=model, created_us=to_us(now)))
            want_vectors(connection, site_number(connection, site), model)

        return self.submit(apply, then)

    def delete_site(self, site: str, *, force: bool, then: Callable[[None], None]) -> Future[None]:
        """Delete a site with its sightings and adaptations: after the commit nobody sees them.

        Then they are wiped in the background, in chunks, also after a crash.

        Raises (in the future):
            SiteNotFoundError
            SiteNotEmptyError: it has sightings, and not `force`.
            AdaptationUnfinishedError: an adaptation is pending or running.

        Folders of its adaptations are noted for their deletion.
        """

        def apply(connection: Connection) -> None:
            require_site(connection, site)
            if not force:
                _refuse_sightings(connection, site)
            refuse_unfinished(connection, site)
            of_it = adaptations.c.site == site
            ids = select(adaptations.c.adaptation).where(of_it)
            connection.execute(insert(pending_folder_deletions).from_select(["adaptation"], ids))
            connection.execute(delete(adaptations).where(of_it))
            connection.execute(update(sites).where(sites.c.site == site).values(site=None))

        return self.submit(apply, self._and_wipe(then))

    def enroll(
        self,
        site: str,
        model: str,
        items: Sequence[NewRow | CallError],
        *,
        key: IdempotencyKey | None,
        now: datetime,
        request_ttl: timedelta,
        then: Callable[[EnrollOutcome], None],
    ) -> Future[EnrollOutcome]:
        """Store sightings with their embeddings; one of the same id is replaced.

        items: in the order of the call; errors are only kept for repetitions of the call.
        key: of a call that may be repeated; None if it may not.
        """

        def apply(connection: Connection) -> EnrollOutcome:
            require_model(connection, site, model)
            if key is not None:
                earlier = earlier_outcome(connection, site, key, now - request_ttl)
                if earlier is not None:
                    return earlier
            rows = [item for item in items if isinstance(item, NewRow)]
            replaced = delete_sightings(connection, site, [row.sighting.id for row in rows])
            numbers = insert_rows(connection, site, model, rows)
            outcome = EnrollOutcome(
                tuple(
                    Stored(item.sighting.id, item.sighting.id in replaced)
                    if isinstance(item, NewRow)
                    else item
                    for item in items
                ),
                repeated=False,
                numbers=numbers,
            )
            if key is not None:
                remember(connection, site, key, outcome, now, request_ttl)
            return outcome

        return self.submit(apply, then)

    def forget_requests(self, before: datetime) -> Future[bool]:
        """Forget a number of request ids of earlier calls; whether there are more."""
        return self.submit(lambda connection: forget_requests(connection, before))

    def delete_sighting(
        self, site: str, sighting: str, then: Callable[[None], None]
    ) -> Future[None]:
        """Delete one sighting; `SightingNotFoundError` if there is none."""

        def apply(connection: Connection) -> None:
            require_site(connection, site)
            if not delete_sightings(connection, site, [sighting]):
                raise sighting_not_found(site, sighting)

        return self.submit(apply, then, deletes=True)

    def add_embeddings(self, model: str, vectors: Mapping[int, Vector]) -> Future[None]:
        """Add embeddings by row number; rows that have been deleted meanwhile are left out."""

        def apply(connection: Connection) -> None:
            present = select(sightings.c.row, sightings.c.site).where(
                sightings.c.row.in_(list(vectors)), lacks_embedding(model)
            )
            found = connection.execute(present).all()
            rows = [row.row for row in found]
            for number in {row.site for row in found}:
                want_vectors(connection, number, model)
            if rows:
                connection.execute(
                    insert(embeddings),
                    [{"row": row, "model": model, "vector": blob(vectors[row])} for row in rows],
                )

        return self.submit(apply)

    def bind_site(
        self,
        site: str,
        model: str,
        *,
        unusable: Sequence[int],
        undo: bool,
        now: datetime,
        then: Callable[[int], None],
        checked: Checked = UNCHECKED,
    ) -> Future[int | None]:
        """Bind a site to a model, and wipe its embeddings of all models but this and the last.

        Args:
            site: the site's id.
            model: fingerprint of the model.
            unusable: numbers of rows to drop: they have no embedding of `model` and can get none.
            undo: remove the last activation instead of adding one.
            now: the time of the activation.
            then: told how many sightings were dropped.
            checked: of `check_vectors`: the writer looks at what is newer only.

        Returns:
            How many sightings were dropped. None, with nothing changed, where another sighting
            lacks an embedding of `model`: it was enrolled meanwhile.

        Raises (in the future):
            SiteNotFoundError: also where the site is another one than was checked.
            RolloverRunningError: `undo`, and `model` is not the one before the last activation.
        """

        def apply(connection: Connection) -> int | None:
            return bind_site(
                connection,
                site,
                model,
                checked=checked,
                unusable=set(unusable),
                undo=undo,
                now=now,
            )

        def bound(dropped: int | None) -> None:
            if dropped is not None:
                then(dropped)

        return self.submit(apply, self._and_wipe(bound))

    def _and_wipe(self, then: Callable[[T], None]) -> Callable[[T], None]:
        def committed(result: T) -> None:
            self._wiper.notify()
            then(result)

        return committed

    def drop_sightings(
        self,
        site: str,
        model: str,
        rows: Sequence[int],
        number: int,
        then: Callable[[Sequence[str]], None],
    ) -> Future[Sequence[str]]:
        """Drop those of the sightings, by row number, that lack an embedding of a model.

        Returns:
            Their ids, which `then` is told.

        Raises (in the future):
            SiteNotFoundError: the site does not have this number any more.
        """

        def apply(connection: Connection) -> Sequence[str]:
            return drop_sightings(connection, site, model, rows, number)

        return self.submit(apply, self._and_wipe(then))

    def submit(
        self,
        apply: Callable[[Connection], T],
        then: Callable[[T], None] | None = None,
        *,
        deletes: bool = False,
    ) -> Future[T]:
        """Run `apply` in a transaction; see `Writer.submit`.

        then: told the result in the order of the commits, before the future is done.
        deletes: what is overwritten must not stay in the write-ahead log.
        """

        def after_commit(result: T) -> None:
            try:
                if then is not None:
                    then(result)
            finally:
                if deletes:
                    self._log.after_deletion()

        return self._writer.submit(apply, after_commit)

    def in_writer(self, work: Callable[[], None]) -> Future[None]:
        """Run a function in the writer's thread, after a commit."""
        return self._writer.submit(lambda _: None, lambda _: work())

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one state of all tables; raises `StoreError`, `StoreBusyError`."""
        try:
            if self._writer.is_current_thread():
                with self._reader_of_writer.begin():
                    yield self._reader_of_writer
                return
            with self._reader.begin() as connection:
                yield connection
        except DBAPIError as error:
            raise store_error(error) from error
        except PoolTimeoutError as error:
            raise StoreBusyError(
                f"too many reads of the database wait; try again in {_READ_RETRY_S:g} s",
                retry_after_s=_READ_RETRY_S,
            ) from error


def _refuse_sightings(connection: Connection, site: str) -> None:
    some = select(sightings.c.row).where(of_site(sightings, site)).limit(_COUNTED + 1).subquery()
    held = connection.execute(select(func.count()).select_from(some)).scalar_one()
    if held:
        number = f"more than {_COUNTED}" if held > _COUNTED else held
        raise SiteNotEmptyError(
            f"site {site} is not empty (sightings: {number}); delete it with force to delete "
            "them, too"
        )


def _create_or_check(engine: Engine, path: Path) -> None:
    with engine.begin() as connection:
        present = set(inspect(connection).get_table_names())
        if not present:
            metadata.create_all(connection)
            connection.execute(insert(schema).values(version=SCHEMA_VERSION))
            return
        if missing := sorted(set(metadata.tables) - present - {composed.name}):
            raise StoreUnusableError(
                f"{path} lacks the tables {', '.join(missing)}; restore it from a backup, or "
                "choose another data folder"
            )
        version = connection.execute(select(schema.c.version)).scalar()
        if version != SCHEMA_VERSION:
            raise StoreUnusableError(
                f"{path} has schema version {version}, this resight reads {SCHEMA_VERSION}; use "
                "the version of resight that wrote it, or restore it from a backup"
            )
        lost = select(sightings.c.row).where(sightings.c.site.not_in(select(sites.c.number)))
        row = connection.execute(lost.limit(1)).scalar()
        if row is not None:  # no site would ever show it
            raise StoreUnusableError(
                f"{path} is damaged: the sighting in row {row} belongs to no site; restore the "
                "database from a backup"
            )


def _kept_crop(row: Any, site: str) -> KeptCrop:
    if row.image is not None:
        stored_bytes(row.image, f"sighting {row.sighting} of site {site}", "a crop")
    return KeptCrop(row.row, row.sighting, row.image)


def _read(rows: Iterable[Any], detail: Detail) -> Iterator[tuple[int, Sighting]]:
    """Row number and sighting of each, as far as the detail allows."""
    left = detail.max_bytes
    for row in rows:
        sighting = to_sighting(row)
        yield row.row, sighting
        left -= sighting.attribute_bytes
        if left < 0:
            return
