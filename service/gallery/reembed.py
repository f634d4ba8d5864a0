"""Embedding a site's kept crops again with another model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from service.errors import BadImageError, CallError, CropUnusableError, OverloadedError
from service.gallery.records import KeptCrop, SiteRow
from service.gallery.store import Store
from service.types import Vector

Embed = Callable[[Sequence[bytes]], Awaitable[list[Vector | CallError]]]
"""Image files -> embedding or error, each."""


async def embed_kept_crops(
    store: Store, site: SiteRow, model: str, embed: Embed, *, batch: int, drop_unusable: bool
) -> AsyncGenerator[tuple[int, int]]:
    """Add embeddings of `model` (a fingerprint) where a site lacks them.

    Yields:
        (sightings that have one, sightings that cannot get one), after each `batch` crops.

    Raises:
        CropUnusableError: a sighting has no usable crop, and not `drop_unusable`.
    """
    embedded = await asyncio.to_thread(store.count_embedded, site.id, model)
    after, unusable = 0, 0
    while True:
        page = await asyncio.to_thread(
            store.crops_without_embedding, site.id, model, after=after, limit=batch
        )
        if not page:
            return
        after = page[-1].row
        vectors = await _embed_page(page, embed, drop_unusable)
        await asyncio.wrap_future(store.add_embeddings(model, vectors))
        embedded += len(vectors)
        unusable += len(page) - len(vectors)
        yield embedded, unusable


async def _embed_page(
    page: Sequence[KeptCrop], embed: Embed, drop_unusable: bool
) -> dict[int, Vector]:
    """Embeddings by row number of those crops that can be embedded."""
    images = [crop.image for crop in page if crop.image is not None]
    results = iter(await _embed_patiently(images, embed) if images else [])
    vectors: dict[int, Vector] = {}
    for crop in page:
        problem = "it was not kept"
        if crop.image is not None:
            result = next(results)
            if not isinstance(result, CallError):
                vectors[crop.row] = result
                continue
            if not isinstance(result, BadImageError):
                raise result
            problem = str(result)
        if not drop_unusable:
            raise CropUnusableError(
                f"the crop of sighting {crop.id} cannot be used ({problem}); delete the sighting, "
                "or let all such sightings be dropped"
            )
    return vectors


async def _embed_patiently(images: Sequence[bytes], embed: Embed) -> list[Vector | CallError]:
    while True:
        try:
            return await embed(images)
        except OverloadedError as error:
            await asyncio.sleep(error.retry_after_s or 0.1)
