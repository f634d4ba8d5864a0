"""The loaded models: the server's own and those of sites, each with its own queue."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from models.bundle import Bundle
from models.errors import ModelError, ModelNotFoundError
from models.registry import GateRecord, ModelReference, Registry
from service.embedding.batcher import Batcher
from service.embedding.engine import Engine, fingerprint
from service.embedding.memory import return_freed_memory
from service.errors import (
    BadNameError,
    CallError,
    ModelLoadError,
    ModelUnusableError,
    UnknownModelError,
)
from service.operations.metrics import Metrics
from service.types import ModelInfo, Vector

log = logging.getLogger("resight.models")

LoadEngine: TypeAlias = Callable[[Bundle], tuple[Engine, bool]]
"""Gives the engine of a bundle, and whether it fell back to the CPU. Raises `ModelLoadError`."""

NewBatcher: TypeAlias = Callable[[Bundle, Engine], Batcher]
"""Gives the queue in front of an engine."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to embed. path: of its bundle. fallback: see `OnnxEngine`."""

    info: ModelInfo
    path: Path
    batcher: Batcher
    fallback: bool

    async def embed(self, images: Sequence[bytes], client: str) -> list[Vector | CallError]:
        """See `Batcher.embed`."""
        return await self.batcher.embed(images, client)

    async def embed_in_turn(
        self, images: Sequence[bytes], *, hurry: bool = False
    ) -> list[Vector | CallError]:
        """See `Batcher.embed_in_turn`."""
        return await self.batcher.embed_in_turn(images, hurry=hurry)


class ModelPool:
    """Models by fingerprint. Belongs to one event loop.

    A model stays loaded while a site uses it or somebody holds it. own: the model that the server
    was started with; it is never released.
    """

    def __init__(
        self,
        own: Bundle,
        registry: Registry,
        *,
        load_engine: LoadEngine,
        new_batcher: NewBatcher,
        metrics: Metrics,
    ) -> None:
        """Load the server's own model; raises `ModelLoadError`."""
        self._registry = registry
        self._load_engine = load_engine
        self._new_batcher = new_batcher
        self._metrics = metrics
        self._loaded: dict[str, LoadedModel] = {}
        self._loading = asyncio.Lock()
        # One thread: a caller that goes away while its model is loaded starts no second one.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="resight-load")
        self._holders: Counter[str] = Counter()
        self._used: Callable[[], Collection[str]] = lambda: ()
        self._superseded: set[str] = set()
        self._releases: set[asyncio.Task[None]] = set()
        self.own = self._keep(own, load_engine(own))

    def keep_models_of(self, used: Callable[[], Collection[str]]) -> None:
        """Say what gives the fingerprints of the models that sites use."""
        self._used = used

    def all(self) -> list[LoadedModel]:
        """Every loaded model, by reference."""
        return sorted(self._loaded.values(), key=lambda loaded: loaded.info.reference)

    def require_room(self, client: str) -> None:
        """Raise the error of `Batcher.require_room` if no loaded model has any.

        So that calls with images can be refused before they are read, while their model is unknown.
        """
        if not any(loaded.batcher.has_room(client) for loaded in self._loaded.values()):
            self.own.batcher.require_room(client)

    def get(self, model: str) -> LoadedModel | None:
        """The model of a fingerprint, None if it is not loaded."""
        return self._loaded.get(model)

    @asynccontextmanager
    async def held(self, reference: str, required: str | None = None) -> AsyncIterator[LoadedModel]:
        """The model `name` or `name@version` of the registry, loaded if it is not yet.

        It is not released within this block. The server's own model is also found by its reference
        if the registry lacks it.

        Args:
            reference: `name` (its newest version) or `name@version`.
            required: fingerprint that the model must have; None for any.

        Raises:
            BadNameError: `reference` is malformed.
            UnknownModelError: no such model, or one of another fingerprint.
            ModelUnusableError: the model is damaged, or fails its self-test.
        """
        loaded = await self._load(reference, required)
        # No other task has run since the model was found: it is still there.
        model = loaded.info.fingerprint
        self._holders[model] += 1
        try:
            yield loaded
        finally:
            self._holders[model] -= 1
            if not self._holders[model]:
                del self._holders[model]
                if model in self._superseded:
                    self.release_unused()

    def release_unused(self) -> None:
        """Release the models that no site uses; one that is held goes with its last holder."""
        unused = set(self._loaded) - set(self._used()) - {self.own.info.fingerprint}
        self._superseded = unused & set(self._holders)
        for model in unused - self._superseded:
            info = self._loaded[model].info
            self._metrics.model_info.remove(info.name, info.version, info.provider)
            task = asyncio.create_task(_release(self._loaded.pop(model).batcher))
            self._releases.add(task)
            task.add_done_callback(self._releases.discard)
            log.info("model %s is not used any more: released", info.reference)

    async def exact(self, reference: str) -> ModelReference:
        """The version that a reference names now; raises as `load`."""
        try:
            bundle = await asyncio.to_thread(self._resolve, reference)
        except UnknownModelError:
            if reference == self.own.info.reference:
                return ModelReference.parse(reference)
            raise
        return ModelReference.parse(bundle.manifest.reference)

    async def gate_record(self, reference: ModelReference) -> GateRecord:
        """The gate's record of a model in the registry.

        It belongs to the name: the same weights may be registered under another one, too.
        """
        return await asyncio.to_thread(self._registry.gate_record, reference)

    async def close(self, drain_s: float) -> None:
        """Close every queue; see `Batcher.close`."""
        open_ = (loaded.batcher.close(drain_s) for loaded in self._loaded.values())
        await asyncio.gather(*open_, *self._releases)
        await asyncio.to_thread(self._loader.shutdown)

    async def _load(self, reference: str, required: str | None) -> LoadedModel:
        if required is not None and required in self._loaded:
            return self._loaded[required]
        try:
            bundle = await asyncio.to_thread(self._resolve, reference)
        except UnknownModelError:
            if required is None and reference == self.own.info.reference:
                return self.own
            raise
        model = fingerprint(bundle)
        if required is not None and model != required:
            raise UnknownModelError(
                f"the model {reference} in {self._registry.root} is another one (fingerprint "
                f"{model[:12]}, not {required[:12]}); add the right bundle under its own version"
            )
        async with self._loading:
            if model not in self._loaded:
                loop = asyncio.get_running_loop()
                try:
                    made = await loop.run_in_executor(self._loader, self._load_engine, bundle)
                except ModelLoadError as error:
                    raise ModelUnusableError(f"{reference} cannot be served: {error}") from error
                return self._keep(bundle, made)
            return self._loaded[model]

    def _resolve(self, reference: str) -> Bundle:
        try:
            ModelReference.parse(reference)
        except ModelError as error:
            raise BadNameError(str(error)) from error
        try:
            return self._registry.resolve(reference)
        except ModelNotFoundError as error:
            raise UnknownModelError(str(error)) from error
        except ModelError as error:
            raise ModelUnusableError(f"{reference} cannot be served: {error}") from error

    def _keep(self, bundle: Bundle, made: tuple[Engine, bool]) -> LoadedModel:
        engine, fallback = made
        info = engine.model
        loaded = LoadedModel(info, bundle.path, self._new_batcher(bundle, engine), fallback)
        self._loaded[info.fingerprint] = loaded
        self._metrics.model_info.labels(info.name, info.version, info.provider).set(1)
        if fallback:
            self._metrics.provider_fallback.set(1)
            log.warning("the runtime has CUDA, but %s runs on the CPU; check the driver", info.name)
        return loaded


async def _release(batcher: Batcher) -> None:
    await batcher.close(0)  # nobody holds its model: no call waits
    del batcher
    await asyncio.to_thread(return_freed_memory)
