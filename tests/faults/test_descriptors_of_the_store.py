"""No descriptor is left: the store works with the files that it has."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.errors import StoreBusyError
from service.operations.metrics import new_metrics
from service.store.records import NewRow
from service.store.store import Store
from service.types import EVERY_SIGHTING
from tests.support.waiting import eventually

NOW = datetime(2026, 1, 2, tzinfo=UTC)
MODEL = "1" * 64
READERS = 6


def ignore(_: object) -> None:
    pass


@contextmanager
def no_descriptor_free() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as held:
        spare = os.open(os.devnull, os.O_RDONLY)
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare + 1, hard))
        held.callback(os.close, spare)
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        with pytest.raises(OSError, match="Too many open files"):
            os.open(os.devnull, os.O_RDONLY)
        yield


def use(store: Store, make_row: Callable[..., NewRow], site: str) -> None:
    """Everything that a site is used for, with writes that SQLite would copy to a file."""
    store.create_site(site, MODEL, NOW, ignore).result(10)
    rows = [make_row(f"s{n}", n, image=bytes(20_000)) for n in range(20)]
    for _ in range(2):  # the second time they are replaced
        store.enroll(
            site, MODEL, rows, key=None, now=NOW, request_ttl=timedelta(hours=1), then=ignore
        ).result(10)
    together = threading.Barrier(READERS)
    read: list[int] = []

    def reader() -> None:
        with store.reading():
            together.wait(10)  # all at once
        read.append(len(store.list_sightings(site, EVERY_SIGHTING, after="", limit=99)))

    threads = [threading.Thread(target=reader) for _ in range(READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert read == [20] * READERS
    store.delete_sighting(site, "s3", ignore).result(10)
    store.delete_site(site, force=True, then=ignore).result(10)
    eventually(lambda: not store.wiping)


def test_no_call_opens_a_file(
    database: Path, tmp_path: Path, make_row: Callable[..., NewRow]
) -> None:
    first = Store.open(tmp_path / "first.db", new_metrics(), readers=READERS)
    first.register_model(MODEL, "person@1")
    use(first, make_row, "warm-up")  # what Python imports on first use
    first.close()
    store = Store.open(database, new_metrics(), readers=READERS)
    store.register_model(MODEL, "person@1")
    with no_descriptor_free():
        use(store, make_row, "lobby")
    store.close()


def test_what_the_writer_reads_waits_for_no_other_read(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(database, new_metrics(), readers=1)
    monkeypatch.setattr(store._reader.pool, "_timeout", 0.01)
    found: list[object] = []
    with store.reading():
        for _ in range(2):
            store.submit(lambda _: None, lambda _: found.append(store.sites())).result(10)
    assert found == [[], []]
    store.close()


def test_a_read_waits_for_a_connection_and_is_refused_clearly(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(database, new_metrics(), readers=1)
    monkeypatch.setattr(store._reader.pool, "_timeout", 0.01)
    with store.reading():
        with pytest.raises(StoreBusyError, match="too many reads") as refused:
            store.sites()
        assert refused.value.retry_after_s
    assert store.sites() == []
    store.close()
