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


async def test_open_ports_are_logged_as_warnings(
    data_dir: Path, tiny_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    server = await bootstrap(settings(data_dir, tiny_bundle.path, listen="0.0.0.0:0"))
    await server.stop()
    assert "0.0.0.0:0 is open to the network" in caplog.text
    assert "127.0.0.1" not in caplog.text
