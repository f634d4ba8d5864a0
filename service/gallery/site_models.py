"""The loaded model of each site."""

from __future__ import annotations

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

    async def load(self, site: str) -> LoadedModel:
        """The model that a site uses, to embed with it; it stays loaded while a site uses it.

        Raises:
            SiteNotFoundError, ModelMismatchError, and the errors of `ModelPool.load`.
        """
        info = await self._gallery.require_ready(site)
        return await self._pool.load(info.reference, info.fingerprint)

    def in_use(self, site: str) -> ModelInUse | None:
        """The model that a site answers with, None if the site is not live."""
        live = self._sites.get(site)
        loaded = None if live is None else self._pool.get(live.model.fingerprint)
        return None if loaded is None else ModelInUse(loaded.info.reference, loaded.path)
