"""The loaded model of each site."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.embedding.model_pool import LoadedModel, ModelPool
from service.gallery.gallery import Gallery
from service.gallery.live_sites import LiveSites
from service.types import ModelInfo, ModelInUse


class SiteModels:
    """Gives the model that a site uses."""

    def __init__(self, gallery: Gallery, sites: LiveSites, pool: ModelPool) -> None:
        self._gallery = gallery
        self._sites = sites
        self._pool = pool

    @property
    def own(self) -> ModelInfo:
        """The server's own model."""
        return self._pool.own.info

    async def info(self, site: str) -> ModelInfo:
        """The model that a site uses; raises as `Gallery.require_ready`."""
        return await self._gallery.require_ready(site)

    @asynccontextmanager
    async def held(self, site: str) -> AsyncIterator[LoadedModel]:
        """The model that a site uses, to embed with it; it is not released within this block.

        Raises:
            SiteNotFoundError, ModelMismatchError, and the errors of `ModelPool.held`.
        """
        info = await self.info(site)
        async with self._pool.held(info.reference, info.fingerprint) as model:
            yield model

    def in_use(self, site: str) -> ModelInUse | None:
        """The model that a site answers with, None if the site is not live."""
        live = self._sites.get(site)
        loaded = None if live is None else self._pool.get(live.model.fingerprint)
        return None if loaded is None else ModelInUse(loaded.info.reference, loaded.path)
