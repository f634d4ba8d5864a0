"""Re-embedding: vectors of another model for the kept crops of a site."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from typing import Protocol

from service.errors import BadImageError, CallError, CropUnusableError, EngineError
from service.store.records import KeptCrop
from service.store.store import Store
from service.types import Vector


class EmbedCrops(Protocol):
    """Image files -> embedding or error, each. hurry: see `Batcher.embed_in_turn`."""

    async def __call__(
        self, images: Sequence[bytes], *, hurry: bool
    ) -> Sequence[Vector | CallError]:
        """Embed them, when it is their turn."""
        ...


class Reembedding:
    """Adds vectors of a model beside those in use.

    number: of the site in the store. model: its fingerprint. embed: with that model.
    drop_unusable: skip sightings without a usable crop, and note them in `unusable`.
    """

    def __init__(
        self,
        store: Store,
        site: str,
        number: int,
        model: str,
        embed: EmbedCrops,
        *,
        drop_unusable: bool,
    ) -> None:
        self._store = store
        self._site = site
        self._number = number
        self._model = model
        self._embed = embed
        self._drop_unusable = drop_unusable
        self._unusable: set[int] = set()
        self._last = 0
        self._seen = 0

    @property
    def unusable(self) -> Collection[int]:
        """Row numbers of the sightings without a usable crop, so far."""
        return self._unusable

    @property
    def seen(self) -> int:
        """Sightings that were embedded, or are unusable, so far."""
        return self._seen

    async def run(self, batch: int, *, hurry: bool) -> AsyncGenerator[None]:
        """Embed the sightings that lack a vector of the model, and yield after each step.

        It ends where none is left. Another run continues there: rows get higher numbers in the
        order of their commits. batch: crops of a step, which are stored at its end. hurry: see
        `Batcher.embed_in_turn`.

        Raises:
            CropUnusableError: a sighting has no usable crop, and not `drop_unusable`.
            EngineError: the model failed on a crop.
            SiteNotFoundError: the site was deleted, also where another one has its name.
        """
        while True:
            page = await asyncio.to_thread(
                self._store.crops_without_embedding,
                self._site,
                self._model,
                after=self._last,
                limit=batch,
                number=self._number,
            )
            if not page:
                return
            vectors = await self._embed_page(page, hurry)
            await asyncio.wrap_future(self._store.add_embeddings(self._model, vectors))
            self._last = page[-1].row
            self._seen += len(page)
            yield

    async def _embed_page(self, page: Sequence[KeptCrop], hurry: bool) -> dict[int, Vector]:
        """Embeddings by row number of the crops that can be embedded."""
        images = [crop.image for crop in page if crop.image is not None]
        results = iter(await self._embed(images, hurry=hurry) if images else [])
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
