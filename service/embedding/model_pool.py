"""The loaded models: the server's own and those of sites, each with its own queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from models.bundle import Bundle
from models.errors import ModelError, ModelNotFoundError
from models.registry import GateRecord, ModelReference, Registry
from service.embedding.batcher import Batcher
from service.embedding.engine import Engine, fingerprint
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

_RELEASE_S = 60.0
"""Seconds that running calls of a released model may take."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to embed. path: of its bundle. fallback: see `OnnxEngine`."""

    info: ModelInfo
    path: Path
    batcher: Batcher
    fallback: bool

    async def embed(self, images: Sequence[bytes]) -> list[Vector | CallError]:
        """See `Batcher.embed`."""
        return await self.batcher.embed(images)


class ModelPool:
    """Models by fingerprint. Belongs to one event loop.

    own: the model that the server was started with; it is never released.
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
        self._released: dict[asyncio.Task[None], LoadedModel] = {}
        self.own = self._keep(own, load_engine(own))

    def all(self) -> list[LoadedModel]:
        """Every loaded model, by reference."""
        return sorted(self._loaded.values(), key=lambda loaded: loaded.info.reference)

    def get(self, model: str) -> LoadedModel | None:
        """The model of a fingerprint, None if it is not loaded."""
        return self._loaded.get(model)

    async def load(self, reference: str, required: str | None = None) -> LoadedModel:
        """The model `name` or `name@version` of the registry, loaded if it is not yet.

        The server's own model is also found by its reference if the registry lacks it.

        Args:
            reference: `name` (its newest version) or `name@version`.
            required: fingerprint that the model must have; None for any.

        Raises:
            BadNameError: `reference` is malformed.
            UnknownModelError: no such model, or one of another fingerprint.
            ModelUnusableError: the model is damaged, or fails its self-test.
        """
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
                try:
                    made = await asyncio.to_thread(self._load_engine, bundle)
                except ModelLoadError as error:
                    raise ModelUnusableError(f"{reference} cannot be served: {error}") from error
                return self._keep(bundle, made)
            return self._loaded[model]

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

    def release(self, used: Collection[str]) -> None:
        """Release the models whose fingerprint is not in `used`, after their running calls."""
        for model in set(self._loaded) - set(used) - {self.own.info.fingerprint}:
            gone = self._loaded.pop(model)
            info = gone.info
            self._metrics.model_info.remove(info.name, info.version, info.provider)
            task = asyncio.create_task(gone.batcher.close(_RELEASE_S))
            self._released[task] = gone
            task.add_done_callback(self._released.pop)
            log.info("model %s is not used any more: released", info.reference)

    async def close(self, drain_s: float) -> None:
        """Close every queue; see `Batcher.close`."""
        left = list(self._released.items())
        for task, _ in left:
            task.cancel()
        await asyncio.gather(*(task for task, _ in left), return_exceptions=True)
        ending = [*self._loaded.values(), *(gone for _, gone in left)]
        await asyncio.gather(*(loaded.batcher.close(drain_s) for loaded in ending))

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
