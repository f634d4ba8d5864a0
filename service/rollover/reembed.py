"""Re-embedding: vectors of another model for the kept crops of a site."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence

from service.errors import (
    BadImageError,
    CallError,
    CropUnusableError,
    EngineError,
    OverloadedError,
)
from service.store.records import KeptCrop
from service.store.store import Store
from service.types import Vector

EmbedCrops = Callable[[Sequence[bytes]], Awaitable[list[Vector | CallError]]]
"""Image files -> embedding or error, each."""

_BUSY_PAUSE_S = 0.1
"""Seconds between two attempts where a busy server does not say how long to wait."""


class Reembedding:
    """Adds vectors of a model beside those in use.

    model: its fingerprint. embed: with that model. batch: crops per step. drop_unusable: skip
    sightings without a usable crop, and note them in `unusable`.
    """

    def __init__(
        self,
        store: Store,
        site: str,
        model: str,
        embed: EmbedCrops,
        *,
        batch: int,
        drop_unusable: bool,
    ) -> None:
        self._store = store
        self._site = site
        self._model = model
        self._embed = embed
        self._batch = batch
        self._drop_unusable = drop_unusable
        self._unusable: set[int] = set()

    @property
    def unusable(self) -> Collection[int]:
        """Row numbers of the sightings without a usable crop, so far."""
        return self._unusable

    async def run(self) -> AsyncGenerator[int]:
        """Embed the sightings that lack a vector of the model; each batch is stored at once.

        Yields:
            The number of sightings with a vector of the model, after each batch.

        Raises:
            CropUnusableError: a sighting has no usable crop, and not `drop_unusable`.
            EngineError: the model failed on a crop.
        """
        embedded = await asyncio.to_thread(self._store.count_embedded, self._site, self._model)
        after = 0
        while True:
            page = await asyncio.to_thread(
                self._store.crops_without_embedding,
                self._site,
                self._model,
                after=after,
                limit=self._batch,
            )
            if not page:
                return
            after = page[-1].row
            vectors = await self._embed_page(page)
            await asyncio.wrap_future(self._store.add_embeddings(self._model, vectors))
            embedded += len(vectors)
            yield embedded

    async def _embed_page(self, page: Sequence[KeptCrop]) -> dict[int, Vector]:
        """Embeddings by row number of the crops that can be embedded."""
        images = [crop.image for crop in page if crop.image is not None]
        results = iter(await _embed_when_free(images, self._embed) if images else [])
        vectors: dict[int, Vector] = {}
        for crop in page:
            problem = "it was not kept"
            if crop.image is not None:
                result = next(results)
                if not isinstance(result, CallError):
                    vectors[crop.row] = result
                    continue
                if not isinstance(result, BadImageError):
                    raise EngineError(f"the crop of sighting {crop.id}: {result}") from result
                problem = str(result)
            if not self._drop_unusable:
                raise CropUnusableError(
                    f"the crop of sighting {crop.id} cannot be used ({problem}); delete the "
                    "sighting, or let all such sightings be dropped"
                )
            self._unusable.add(crop.row)
        return vectors


async def _embed_when_free(images: Sequence[bytes], embed: EmbedCrops) -> list[Vector | CallError]:
    while True:
        try:
            return await embed(images)
        except OverloadedError as error:
            await asyncio.sleep(error.retry_after_s or _BUSY_PAUSE_S)
