from __future__ import annotations

import shutil
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from models.bundle import Bundle
from models.registry import Registry
from service.app import bootstrap, open_bundle
from service.config import Settings, load_settings
from service.embedding.engine import fingerprint
from service.errors import DataDirError, ModelLoadError, PortError, StoreUnusableError
from service.operations.data_dir import DataDir
from service.operations.metrics import new_metrics
from service.store.records import NewRow
from service.store.store import Store
from tests.support.tiny_model import write_tiny_bundle

REJECTED = b'{"verdict": "reject", "adaptation": "sites/tiny/adaptations/j1"}'


def settings(data_dir: Path, model: object, **more: Any) -> Settings:
    given = {"listen": "127.0.0.1:0", "http": "127.0.0.1:0", "drain_s": 1.0} | more
    return load_settings(data_dir=data_dir, model=str(model), **given)


async def test_starts_and_stops(data_dir: Path, tiny_bundle: Bundle) -> None:
    for _ in range(2):
        server = await bootstrap(settings(data_dir, tiny_bundle.path))
        ready = await server.start()
        assert ready.model.reference == "tiny@1"
        assert (ready.sites, ready.sightings, ready.fallback) == (0, 0, False)
        assert not ready.grpc_address.endswith(":0")
        await server.stop()
    DataDir.open(data_dir).close()


@pytest.mark.parametrize("option", ["listen", "http"])
async def test_a_taken_port_is_reported_and_everything_is_released(
    data_dir: Path, tiny_bundle: Bundle, option: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = await bootstrap(settings(data_dir, tiny_bundle.path, **{option: address}))
        with pytest.raises(PortError, match=f"{address}.*--{option}"):
            await server.start()
        await server.stop()
    server = await bootstrap(settings(data_dir, tiny_bundle.path))
    await server.start()
    await server.stop()


async def test_a_failed_start_releases_the_data_folder(
    data_dir: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(ModelLoadError):
        await bootstrap(settings(data_dir, data_dir / "none"))
    broken = shutil.copytree(tiny_bundle.path, tmp_path / "broken")
    with (broken / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelLoadError, match=r"model\.onnx"):
        await bootstrap(settings(data_dir, broken))
    assert not data_dir.exists()
    data_dir.mkdir()
    (data_dir / "resight.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreUnusableError):
        await bootstrap(settings(data_dir, tiny_bundle.path))
    holder = DataDir.open(data_dir)
    with pytest.raises(DataDirError):
        await bootstrap(settings(data_dir, tiny_bundle.path))
    holder.close()


async def test_damage_that_is_met_at_the_start_names_the_database(
    data_dir: Path, tiny_bundle: Bundle
) -> None:
    data_dir.mkdir()
    database = data_dir / "resight.db"
    store = Store.open(database, new_metrics())
    store.register_model("1" * 64, "person@1")
    created = store.create_site("lobby", "1" * 64, datetime.now(UTC), lambda _: None)
    created.result(10)
    store.close()
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM models")
    with pytest.raises(StoreUnusableError, match="restore the database from a backup") as refused:
        await bootstrap(settings(data_dir, tiny_bundle.path))
    assert str(database) in str(refused.value)


@pytest.mark.parametrize("damage", ["camera = x'ff'", "time_us = 'yesterday'", "person = x'70'"])
async def test_a_sighting_that_cannot_be_indexed_ends_the_start(
    data_dir: Path, tiny_bundle: Bundle, make_row: Callable[..., NewRow], damage: str
) -> None:
    data_dir.mkdir()
    database = data_dir / "resight.db"
    model = fingerprint(tiny_bundle)
    store = Store.open(database, new_metrics())
    store.register_model(model, "tiny@1")
    store.create_site("lobby", model, datetime.now(UTC), lambda _: None).result(10)
    store.enroll(
        "lobby", model, [make_row("a")], key=None, now=datetime.now(UTC),
        request_ttl=timedelta(hours=1), then=lambda _: None,
    ).result(10)  # fmt: skip
    store.close()
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(f"UPDATE sightings SET {damage}")  # noqa: S608
    with pytest.raises(
        StoreUnusableError, match="damaged: sighting a of site lobby has"
    ) as refused:
        await bootstrap(settings(data_dir, tiny_bundle.path))
    assert str(database) in str(refused.value)


def test_a_model_is_a_folder_or_a_name_in_the_registry(
    data_dir: Path, tiny_bundle: Bundle, other_bundle: Bundle, tmp_path: Path
) -> None:
    registry = Registry(tmp_path / "registry")
    registry.add(tiny_bundle.path)
    registry.add(other_bundle.path)
    for model, reference in (
        (tiny_bundle.path, "tiny@1"),
        ("tiny", "tiny@2"),
        ("tiny@1", "tiny@1"),
    ):
        asked = settings(data_dir, model, registry=tmp_path / "registry")
        assert open_bundle(asked).reference == reference
    for wrong in ("other", "tiny@3", "Not A Model", tmp_path / "nowhere"):
        with pytest.raises(ModelLoadError):
            open_bundle(settings(data_dir, wrong, registry=tmp_path / "registry"))


@pytest.mark.parametrize(
    ("report", "why"),
    [
        (REJECTED, r"the gate rejected tiny@2 \(sites/tiny/adaptations/j1\)"),
        (
            b'{"verdict": "unjudged", "reasons": ["it crashed"]}',
            "gave no verdict .*tiny@2.*it crashed",
        ),
        (b"{", r"verdict on tiny@2 is damaged: .*2\.gate\.json"),
    ],
)
def test_a_name_does_not_start_a_version_that_needs_force(
    data_dir: Path, tiny_bundle: Bundle, other_bundle: Bundle, tmp_path: Path,
    report: bytes, why: str,
) -> None:  # fmt: skip
    registry = Registry(tmp_path / "registry")

    def opened(model: object) -> str:
        return open_bundle(settings(data_dir, model, registry=registry.root)).reference

    rejected = registry.add(other_bundle.path, verdict=report)
    with pytest.raises(
        ModelLoadError, match=f"{why}.*start with another model, or with tiny@2 itself"
    ):
        opened("tiny")
    registry.add(tiny_bundle.path, verdict=b'{"verdict": "hold"}')
    with pytest.raises(ModelLoadError, match=f"{why}.*: start with tiny@1, or with tiny@2 itself"):
        opened("tiny")
    # Whoever names the version has chosen it.
    assert (opened("tiny@1"), opened("tiny@2"), opened(rejected.path)) == (
        "tiny@1", "tiny@2", "tiny@2"
    )  # fmt: skip
    registry.add(write_tiny_bundle(tmp_path / "3", version="3", shift=50.0).path)
    assert opened("tiny") == "tiny@3"


async def test_a_rejected_model_starts_no_server_by_its_name(
    data_dir: Path, tiny_bundle: Bundle, other_bundle: Bundle, tmp_path: Path
) -> None:
    """A server that runs with `--model NAME`, and whose site NAME adapts, is started again."""
    registry = Registry(tmp_path / "registry")
    registry.add(tiny_bundle.path)
    named = settings(data_dir, "tiny", registry=registry.root)
    await (await bootstrap(named)).stop()
    registry.add(other_bundle.path, verdict=REJECTED)
    with pytest.raises(ModelLoadError, match="start with tiny@1, or with tiny@2 itself"):
        await bootstrap(named)
    server = await bootstrap(settings(data_dir, "tiny@1", registry=registry.root))
    assert (await server.start()).model.reference == "tiny@1"
    await server.stop()


async def test_open_ports_are_logged_as_warnings(
    data_dir: Path, tiny_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    server = await bootstrap(settings(data_dir, tiny_bundle.path, listen="0.0.0.0:0"))
    await server.stop()
    assert "0.0.0.0:0 is open to the network" in caplog.text
    assert "127.0.0.1" not in caplog.text
