"""Which model a site uses, and how it gets another one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from service.embedding.model_pool import Loaded, LoadedModels
from service.errors import ModelRejectedError, NoEarlierModelError
from service.gallery.gallery import Gallery
from service.jobs.runner import ModelInUse
from service.types import ReembedProgress


class Switching:
    """Moves sites between models. batch: crops per step."""

    def __init__(self, gallery: Gallery, models: LoadedModels, *, batch: int) -> None:
        self._gallery = gallery
        self._models = models
        self._batch = batch

    async def active(self, site: str) -> Loaded:
        """The model that a site uses, to embed with it; loaded as long as a site uses it.

        Raises:
            SiteNotFoundError, ModelMismatchError, and as `LoadedModels.load`.
        """
        info = await self._gallery.require_ready(site)
        return await self._models.load(info.reference, info.fingerprint)

    def in_use(self, site: str) -> ModelInUse | None:
        """The model that a site answers with, None if it does not."""
        info = self._gallery.model_of(site)
        loaded = None if info is None else self._models.get(info.fingerprint)
        return None if loaded is None else ModelInUse(loaded.info.reference, loaded.path)

    def to_own(self, site: str, *, drop_unusable: bool) -> AsyncGenerator[ReembedProgress]:
        """Move a site to the server's own model; raises as `Gallery.move`."""
        return self._move(site, self._models.own, drop_unusable=drop_unusable)

    async def activate(
        self, site: str, reference: str, *, drop_unusable: bool, force: bool = False
    ) -> AsyncGenerator[ReembedProgress]:
        """Move a site to a model of the registry, `name` or `name@version`.

        force: also to one that the gate rejected.

        Raises:
            ModelNotFoundError, ModelUnusableError, ModelRejectedError, and as `Gallery.move`.
        """
        await self._gallery.site(site)
        loaded = await self._models.load(reference)
        origin = await self._models.origin(loaded)
        if origin.verdict == "reject" and not force:
            self._models.release(self._gallery.models_in_use())
            raise ModelRejectedError(
                f"the gate rejected {loaded.info.reference} ({origin.adaptation or 'unknown'}); "
                "activate another model, or force this one"
            )
        async with aclosing(self._move(site, loaded, drop_unusable=drop_unusable)) as steps:
            async for step in steps:
                yield replace(step, adaptation=origin.adaptation, verdict=origin.verdict)

    async def rollback(self, site: str, *, drop_unusable: bool) -> AsyncGenerator[ReembedProgress]:
        """Move a site to the model that it used before.

        Raises:
            NoEarlierModelError, and as `activate`.
        """
        earlier = await self._gallery.earlier_model(site)
        if earlier is None:
            raise NoEarlierModelError(f"site {site} has used one model only; it has no earlier one")
        loaded = await self._models.load(earlier.reference, earlier.fingerprint)
        moving = self._move(site, loaded, drop_unusable=drop_unusable, back=True)
        async with aclosing(moving) as steps:
            async for step in steps:
                yield step

    async def _move(
        self, site: str, to: Loaded, *, drop_unusable: bool, back: bool = False
    ) -> AsyncGenerator[ReembedProgress]:
        try:
            moving = self._gallery.move(
                site,
                to.info,
                to.embed,
                batch=self._batch,
                drop_unusable=drop_unusable,
                back=back,
            )
            async with aclosing(moving) as steps:
                async for step in steps:
                    yield step
        finally:
            self._models.release(self._gallery.models_in_use())
