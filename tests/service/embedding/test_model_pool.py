from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from models.bundle import Bundle
from models.registry import Registry
from service.embedding.batcher import Batcher
from service.embedding.decode import CropDecoder
from service.embedding.engine import Engine, OnnxEngine, fingerprint
from service.embedding.model_pool import LoadedModel, ModelPool
from service.errors import BadNameError, ModelUnusableError, OverloadedError, UnknownModelError
from service.operations.metrics import Metrics
from tests.support.tiny_model import crop, embed_files, write_tiny_bundle


@pytest.fixture
def registry(tmp_path: Path, other_bundle: Bundle) -> Registry:
    registry = Registry(tmp_path / "registry")
    registry.add(other_bundle.path)
    return registry


@pytest.fixture
async def models(
    tiny_bundle: Bundle, registry: Registry, metrics: Metrics
) -> AsyncIterator[ModelPool]:
    def new_batcher(bundle: Bundle, engine: Engine) -> Batcher:
        decoder = CropDecoder(
            bundle.manifest.preprocessing,
            max_bytes=10**6,
            max_pixels=10**6,
            threads=1,
            metrics=metrics,
        )
        return Batcher(engine, decoder, max_batch=4, max_queue=8, metrics=metrics)

    models = ModelPool(
        tiny_bundle,
        registry,
        load_engine=lambda bundle: (OnnxEngine.load(bundle, provider="cpu", threads=1), False),
        new_batcher=new_batcher,
        metrics=metrics,
    )
    yield models
    await models.close(1.0)


async def load(models: ModelPool, reference: str, required: str | None = None) -> LoadedModel:
    """A model that nobody holds any more; it is loaded until unused ones are released."""
    async with models.held(reference, required) as model:
        return model


async def test_each_embeds_with_its_own(models: ModelPool) -> None:
    other = await load(models, "tiny@2")
    assert [m.info.reference for m in models.all()] == ["tiny@1", "tiny@2"]
    for loaded, shift in ((models.own, 0.0), (other, 40.0)):
        (vector,) = await loaded.embed([crop(1)], "one")
        assert vector == pytest.approx(embed_files([crop(1)], shift)[0], abs=1e-6)
    assert await load(models, "tiny@2") is other
    assert await load(models, "tiny") is other
    assert await load(models, "anything", other.info.fingerprint) is other
    assert await load(models, "tiny@1") is models.own, "the registry has none of this name"


async def test_there_is_room_while_one_model_has_some(models: ModelPool, metrics: Metrics) -> None:
    other = await load(models, "tiny@2")
    models.own.batcher._queue.admit("one", 8)
    models.require_room("one")
    other.batcher._queue.admit("one", 8)
    with pytest.raises(OverloadedError, match="8 images wait"):
        models.require_room("one")
    assert metrics.rejected.labels("queue")._value.get() == 1


async def test_a_registered_model_that_has_the_name_of_the_servers_own(
    models: ModelPool, registry: Registry, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    registry.add(write_tiny_bundle(tmp_path / "namesake", shift=9.0).path)
    namesake = await load(models, "tiny@1")
    assert namesake is not models.own
    (vector,) = await namesake.embed([crop(1)], "one")
    assert vector == pytest.approx(embed_files([crop(1)], 9.0)[0], abs=1e-6)
    # Who is bound to the server's own by its fingerprint, keeps it.
    assert await load(models, "tiny@1", fingerprint(tiny_bundle)) is models.own


async def test_a_model_of_the_same_name_is_not_enough(
    models: ModelPool, other_bundle: Bundle
) -> None:
    with pytest.raises(UnknownModelError, match="another one"):
        await load(models, "tiny@2", "0" * 64)
    assert (await load(models, "tiny@2", fingerprint(other_bundle))).info.version == "2"


async def test_what_cannot_be_loaded(models: ModelPool, registry: Registry, tmp_path: Path) -> None:
    for wrong in ("tiny@9", "other"):
        with pytest.raises(UnknownModelError):
            await load(models, wrong)
    with pytest.raises(BadNameError):
        await load(models, "../tiny")
    registry.add(write_tiny_bundle(tmp_path / "third", version="3", shift=9.0).path)
    file = registry.root / "tiny" / "3" / "model.onnx"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(ModelUnusableError):
        await load(models, "tiny@3")
    assert [m.info.reference for m in models.all()] == ["tiny@1"]


async def test_unused_models_are_released(models: ModelPool, metrics: Metrics) -> None:
    other = await load(models, "tiny@2")

    def loaded(version: str) -> float | None:
        labels = {"model": "tiny", "version": version, "provider": "cpu"}
        return metrics.registry.get_sample_value("resight_model_info", labels)

    assert (loaded("1"), loaded("2")) == (1, 1)
    models.keep_models_of(lambda: {other.info.fingerprint})
    models.release_unused()
    assert models.get(other.info.fingerprint) is other
    models.keep_models_of(set)
    models.release_unused()
    assert models.get(other.info.fingerprint) is None
    assert models.get(models.own.info.fingerprint) is models.own
    assert (loaded("1"), loaded("2")) == (1, None)
    assert await load(models, "tiny@2") is not other


async def test_a_model_that_is_held_is_released_with_its_last_holder(models: ModelPool) -> None:
    async with models.held("tiny@2") as other:
        async with models.held("tiny@2") as again:
            models.release_unused()
            assert models.get(other.info.fingerprint) is other is again
        (vector,) = await other.embed([crop(1)], "one")
        assert vector == pytest.approx(embed_files([crop(1)], 40.0)[0], abs=1e-6)
        assert models.get(other.info.fingerprint) is other
    assert models.get(other.info.fingerprint) is None


async def test_a_held_model_that_a_site_uses_again_stays(models: ModelPool) -> None:
    async with models.held("tiny@2") as other:
        models.release_unused()
        models.keep_models_of(lambda: {other.info.fingerprint})
    assert models.get(other.info.fingerprint) is other


async def test_callers_that_go_away_while_a_model_is_loaded_do_not_multiply_it(
    models: ModelPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, entered = threading.Event(), threading.Semaphore(0)
    running, most = 0, 0

    def slow(bundle: Bundle) -> tuple[Engine, bool]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        entered.release()
        assert go.wait(10)
        running -= 1
        return OnnxEngine.load(bundle, provider="cpu", threads=1), False

    monkeypatch.setattr(models, "_load_engine", slow)
    first = asyncio.create_task(load(models, "tiny@2"))
    assert await asyncio.to_thread(entered.acquire, timeout=10)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.create_task(load(models, "tiny@2"))
    assert not await asyncio.to_thread(entered.acquire, timeout=0.2)
    go.set()
    assert (await second).info.version == "2"
    assert most == 1
