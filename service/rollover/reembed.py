"""Moving a site to another model: its crops are embedded again, then all changes at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TypeVar

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

T = TypeVar("T")

Embed = Callable[[Sequence[bytes]], Awaitable[list[Vector | CallError]]]
"""Image files -> embedding or error, each."""


class Move:
    """One move of a site to a model, given by its fingerprint.

    embed: of that model. batch: crops per step. drop_unusable: delete sightings without a usable
    crop at the end. back: this undoes the last move.
    """

    def __init__(
        self,
        store: Store,
        site: str,
        model: str,
        embed: Embed,
        *,
        batch: int,
        drop_unusable: bool,
        back: bool,
    ) -> None:
        self._store = store
        self._site = site
        self._model = model
        self._embed = embed
        self._batch = batch
        self._drop_unusable = drop_unusable
        self._back = back
        self._unusable: set[int] = set()

    @property
    def dropped(self) -> int:
        """Sightings that cannot get an embedding of the model, so far."""
        return len(self._unusable)

    async def embed_crops(self) -> AsyncGenerator[int]:
        """Add embeddings of the model where sightings lack them; what is done is stored.

        Yields:
            How many sightings have one, after each batch.

        Raises:
            CropUnusableError: a sighting has no usable crop, and not `drop_unusable`.
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

    async def change_over(
        self,
        refusing_enrolment: AbstractContextManager[None],
        now: datetime,
        then: Callable[[int], None],
    ) -> int:
        """Bind the site to the model; returns how many sightings were dropped.

        Nothing is enrolled from here on; what was, since the last look or on its way to the
        database, is embedded first. So the end does come, and no sighting is left behind.
        """
        with refusing_enrolment:
            while True:
                async for _ in self.embed_crops():
                    pass
                switched = self._store.switch_model(
                    self._site,
                    self._model,
                    unusable=sorted(self._unusable),
                    back=self._back,
                    now=now,
                    then=then,
                )
                dropped = await to_the_end(switched)
                if dropped is not None:
                    return dropped

    async def _embed_page(self, page: Sequence[KeptCrop]) -> dict[int, Vector]:
        """Embeddings by row number of those crops that can be embedded."""
        images = [crop.image for crop in page if crop.image is not None]
        results = iter(await _embed_patiently(images, self._embed) if images else [])
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


async def to_the_end(write: Future[T]) -> T:
    """The result of a write. Who is cancelled meanwhile hears of it when the write is over: until
    then nobody can tell which model the site has."""
    over = asyncio.wrap_future(write)
    cancelled: asyncio.CancelledError | None = None
    while not over.done():
        try:
            await asyncio.wait({over})
        except asyncio.CancelledError as error:
            cancelled = error
    result = over.result()
    if cancelled is not None:
        raise cancelled
    return result


async def _embed_patiently(images: Sequence[bytes], embed: Embed) -> list[Vector | CallError]:
    while True:
        try:
            return await embed(images)
        except OverloadedError as error:
            await asyncio.sleep(error.retry_after_s or 0.1)
