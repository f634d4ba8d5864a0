from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from models.bundle import Bundle
from models.registry import Registry
from service.embedding.batcher import Batcher
from service.embedding.decode import CropDecoder
from service.embedding.engine import Engine, OnnxEngine, fingerprint
from service.embedding.model_pool import ModelPool
from service.errors import BadNameError, ModelUnusableError, UnknownModelError
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


async def test_each_embeds_with_its_own(models: ModelPool) -> None:
    other = await models.load("tiny@2")
    assert [m.info.reference for m in models.all()] == ["tiny@1", "tiny@2"]
    for loaded, shift in ((models.own, 0.0), (other, 40.0)):
        (vector,) = await loaded.embed([crop(1)])
        assert vector == pytest.approx(embed_files([crop(1)], shift)[0], abs=1e-6)
    assert await models.load("tiny@2") is other
    assert await models.load("tiny") is other
    assert await models.load("anything", other.info.fingerprint) is other
    assert await models.load("tiny@1") is models.own, "the registry has none of this name"


async def test_a_registered_model_that_has_the_name_of_the_servers_own(
    models: ModelPool, registry: Registry, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    registry.add(write_tiny_bundle(tmp_path / "namesake", shift=9.0).path)
    namesake = await models.load("tiny@1")
    assert namesake is not models.own
    (vector,) = await namesake.embed([crop(1)])
    assert vector == pytest.approx(embed_files([crop(1)], 9.0)[0], abs=1e-6)
    # Who is bound to the server's own by its fingerprint, keeps it.
    assert await models.load("tiny@1", fingerprint(tiny_bundle)) is models.own


async def test_a_model_of_the_same_name_is_not_enough(
    models: ModelPool, other_bundle: Bundle
) -> None:
    with pytest.raises(UnknownModelError, match="another one"):
        await models.load("tiny@2", "0" * 64)
    assert (await models.load("tiny@2", fingerprint(other_bundle))).info.version == "2"


async def test_what_cannot_be_loaded(models: ModelPool, registry: Registry, tmp_path: Path) -> None:
    for wrong in ("tiny@9", "other"):
        with pytest.raises(UnknownModelError):
            await models.load(wrong)
    with pytest.raises(BadNameError):
        await models.load("../tiny")
    registry.add(write_tiny_bundle(tmp_path / "third", version="3", shift=9.0).path)
    file = registry.root / "tiny" / "3" / "model.onnx"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(ModelUnusableError):
        await models.load("tiny@3")
    assert [m.info.reference for m in models.all()] == ["tiny@1"]


async def test_unused_models_are_released(models: ModelPool, metrics: Metrics) -> None:
    other = await models.load("tiny@2")

    def loaded(version: str) -> float | None:
        labels = {"model": "tiny", "version": version, "provider": "cpu"}
        return metrics.registry.get_sample_value("resight_model_info", labels)

    assert (loaded("1"), loaded("2")) == (1, 1)
    models.release({other.info.fingerprint})
    assert models.get(other.info.fingerprint) is other
    models.release(set())
    assert models.get(other.info.fingerprint) is None
    assert models.get(models.own.info.fingerprint) is models.own
    assert (loaded("1"), loaded("2")) == (1, None)
    assert await models.load("tiny@2") is not other
