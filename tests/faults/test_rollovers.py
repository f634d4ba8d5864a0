"""Models that come and go while sites use them."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from models.bundle import Bundle
from models.registry import Registry
from service.app import bootstrap
from service.client import CallFailedError
from service.config import Settings, load_settings
from service.embedding.engine import Engine, OnnxEngine
from service.errors import ModelLoadError, StoreFullError
from service.rpc.pb.resight.v1 import site_pb2
from service.store.store import Store
from service.types import Enrolled, NewSighting
from tests.support.held_commit import leave_while_a_site_is_deleted
from tests.support.raw_client import RawClient
from tests.support.running_server import Running
from tests.support.tiny_model import crop, write_tiny_bundle


class Engines:
    """Loads engines, and remembers them without keeping them alive. before: called at each load."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.before: Callable[[Bundle], None] = lambda bundle: None
        self._made: list[tuple[str, weakref.ref[Engine]]] = []

    def load(self, bundle: Bundle, settings: Settings) -> tuple[Engine, bool]:
        self.loaded.append(bundle.reference)
        self.before(bundle)
        engine = OnnxEngine.load(bundle, provider="cpu", threads=1)
        self._made.append((bundle.reference, weakref.ref(engine)))
        return engine, False

    def alive(self) -> list[str]:
        return sorted(reference for reference, engine in self._made if engine() is not None)


@pytest.fixture
def engines() -> Engines:
    return Engines()


@pytest.fixture
async def server(
    tiny_bundle: Bundle, engines: Engines, data_dir: Path, tmp_path: Path
) -> AsyncIterator[Running]:
    """A server of `tiny@1`, with `tiny@2` to `tiny@4` in its registry."""
    registry = Registry(tmp_path / "registry")
    for version in "234":
        folder = tmp_path / version
        registry.add(write_tiny_bundle(folder, version=version, shift=10.0 * int(version)).path)
    settings = load_settings(
        data_dir=data_dir,
        model=str(tiny_bundle.path),
        registry=registry.root,
        listen="127.0.0.1:0",
        http="127.0.0.1:0",
    )
    made = await bootstrap(settings, load_engine=engines.load)
    running = Running(made, await made.start())
    yield running
    await running.stop()


def people(*numbers: int) -> list[NewSighting]:
    return [NewSighting(image=crop(n), camera="c1", id=f"s{n}") for n in numbers]


async def loaded(server: Running) -> list[str]:
    return [model.reference for model in await server.ask(server.client.models)]


async def test_a_call_keeps_its_model_while_the_site_goes_to_another_one_and_back(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told SHUTTING_DOWN: the site's model was the same, loaded anew."""
    client = server.client
    await server.ask(client.create_site, "lobby")
    await server.ask(client.activate_model, "lobby", "tiny@2")
    asked, go = threading.Event(), threading.Event()
    earlier_outcome = Store.earlier_outcome

    def held_up(*args: Any) -> Any:
        asked.set()
        assert go.wait(20)
        return earlier_outcome(*args)

    monkeypatch.setattr(Store, "earlier_outcome", held_up)
    enrolling = asyncio.create_task(server.ask(client.enroll, "lobby", people(1)))
    assert await asyncio.to_thread(asked.wait, 20)
    await server.ask(client.activate_model, "lobby", "tiny@3")
    await server.ask(client.rollback_model, "lobby")
    go.set()
    (result,) = await enrolling
    assert isinstance(result, Enrolled)
    assert await loaded(server) == ["tiny@1", "tiny@2"]


async def test_the_end_of_one_rollover_does_not_release_the_model_of_another(
    server: Running, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = server.client
    for site in ("lobby", "yard"):
        await server.ask(client.create_site, site)
        await server.ask(client.enroll, site, people(1, 2))
    asked, go = threading.Event(), threading.Event()
    register_model = Store.register_model

    def held_up(store: Store, fingerprint: str, reference: str) -> None:
        if reference == "tiny@2":
            asked.set()
            assert go.wait(20)
        register_model(store, fingerprint, reference)

    monkeypatch.setattr(Store, "register_model", held_up)
    moving = asyncio.create_task(server.ask(client.activate_model, "lobby", "tiny@2"))
    assert await asyncio.to_thread(asked.wait, 20)
    await server.ask(client.activate_model, "yard", "tiny@3")
    await server.ask(client.activate_model, "yard", "tiny@4")
    go.set()
    assert (await moving)[-1].site.model == "tiny@2"
    assert await loaded(server) == ["tiny@1", "tiny@2", "tiny@4"]


async def test_the_model_of_a_deleted_site_is_released(server: Running) -> None:
    client = server.client
    await server.ask(client.create_site, "lobby")
    await server.ask(client.activate_model, "lobby", "tiny@2")
    assert await loaded(server) == ["tiny@1", "tiny@2"]
    await server.ask(client.delete_site, "lobby")
    assert await loaded(server) == ["tiny@1"]


async def test_the_model_of_a_deleted_site_is_released_although_the_caller_has_left(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = server.client
    await server.ask(client.create_site, "lobby")
    await server.ask(client.activate_model, "lobby", "tiny@2")
    await leave_while_a_site_is_deleted(server, "lobby", monkeypatch)
    async with asyncio.timeout(10):
        while await loaded(server) != ["tiny@1"]:
            await asyncio.sleep(0.01)


async def test_no_engine_outlives_its_release(server: Running, engines: Engines) -> None:
    """Without help of the collector of cycles: one alive keeps all its weights in memory."""
    client = server.client
    await server.ask(client.create_site, "lobby")
    await server.ask(client.enroll, "lobby", people(*range(5)))
    gc.collect()
    gc.disable()
    try:
        for version in (2, 3, 4, 2, 3):
            await server.ask(client.activate_model, "lobby", f"tiny@{version}")
            await server.ask(client.search, "lobby", crop(1), limit=3)
        await server.ask(client.rollback_model, "lobby")
        async with asyncio.timeout(20):
            while engines.alive() != ["tiny@1", "tiny@2"]:
                await asyncio.sleep(0.01)
    finally:
        gc.enable()
    assert len(engines.loaded) == 7


async def test_no_engine_outlives_a_rollover_that_ends_early(
    server: Running, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an error, by a caller who leaves, and by a model that fails its self-test."""
    client = server.client
    await server.ask(client.create_site, "lobby")
    await server.ask(client.enroll, "lobby", people(*range(5)))
    asked, go = threading.Event(), threading.Event()
    crops_without_embedding = Store.crops_without_embedding

    def refuse(*_: Any) -> Any:
        raise StoreFullError("full")

    def held_up(*args: Any, **named: Any) -> Any:
        asked.set()
        assert go.wait(20)
        return crops_without_embedding(*args, **named)

    gc.collect()
    gc.disable()
    try:
        monkeypatch.setattr(Store, "add_embeddings", refuse)
        with pytest.raises(CallFailedError, match="full"):
            await server.ask(client.activate_model, "lobby", "tiny@2")
        monkeypatch.setattr(Store, "crops_without_embedding", held_up)
        with RawClient(server.ready.grpc_address) as raw:
            model = site_pb2.ActivateModelRequest(name="sites/lobby", model="models/tiny@3")
            call = raw.sites.ActivateModel(model)
            assert await asyncio.to_thread(asked.wait, 20)
            call.cancel()
        go.set()
        engines.before = broken
        with pytest.raises(CallFailedError, match="cannot be served: broken"):
            await server.ask(client.activate_model, "lobby", "tiny@4")
        async with asyncio.timeout(20):
            while engines.alive() != ["tiny@1"]:
                await asyncio.sleep(0.01)
    finally:
        gc.enable()
    assert engines.loaded == ["tiny@1", "tiny@2", "tiny@3", "tiny@4"]


def broken(bundle: Bundle) -> None:
    raise ModelLoadError("broken")


async def test_an_activation_that_is_refused_loads_no_model(
    server: Running, engines: Engines
) -> None:
    client = server.client
    await server.ask(client.create_site, "lobby")
    asked, go = threading.Event(), threading.Event()

    def held_up(bundle: Bundle) -> None:
        asked.set()
        assert go.wait(20)

    engines.before = held_up
    first = asyncio.create_task(server.ask(client.activate_model, "lobby", "tiny@2"))
    assert await asyncio.to_thread(asked.wait, 20)
    with pytest.raises(CallFailedError, match=r"to tiny@2 is running \(LOADING\)") as refused:
        await server.ask(client.activate_model, "lobby", "tiny@3")
    assert refused.value.reason == "REEMBED_RUNNING"
    go.set()
    assert (await first)[-1].site.model == "tiny@2"
    with pytest.raises(CallFailedError) as refused:
        await server.ask(client.activate_model, "nowhere", "tiny@3")
    assert refused.value.reason == "SITE_NOT_FOUND"
    assert engines.loaded == ["tiny@1", "tiny@2"]


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"\xff\xfe\0", b'{"verdict": "REJECT"}', b'{"VERDICT": "promote"}',
     b'{"verdict": "rej', b'{"verdict":' + b"[" * 100_000, None],
)  # fmt: skip
async def test_a_verdict_that_cannot_be_read_asks_for_force(
    server: Running, engines: Engines, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "registry" / "tiny" / "2.gate.json"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    client = server.client
    await server.ask(client.create_site, "lobby")
    with pytest.raises(CallFailedError, match=r"verdict on tiny@2 is damaged") as refused:
        await server.ask(client.activate_model, "lobby", "tiny@2")
    assert refused.value.reason == "MODEL_REJECTED"
    assert engines.loaded == ["tiny@1"]
    steps = await server.ask(client.activate_model, "lobby", "tiny@2", force=True)
    assert (steps[-1].site.model, steps[-1].verdict) == ("tiny@2", "damaged")
