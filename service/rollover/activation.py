"""Requests for another model of a site: activate, roll back, re-embed with the server's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

from models.registry import GateRecord, ModelReference
from service.embedding.model_pool import ModelPool
from service.errors import ModelRejectedError, NoEarlierModelError
from service.rollover.rollover import Activation, Rollovers
from service.store.store import Store
from service.types import RolloverProgress, check_site_id


class Activator:
    """Finds the model of a request, and starts the rollover to it."""

    def __init__(self, store: Store, pool: ModelPool, rollovers: Rollovers) -> None:
        self._store = store
        self._pool = pool
        self._rollovers = rollovers

    def activate_own(self, site: str, *, drop_unusable: bool) -> AsyncGenerator[RolloverProgress]:
        """Roll a site over to the server's own model; raises as `Rollovers.run`."""
        own = self._pool.own.info
        return self._run(site, own.reference, own.fingerprint, drop_unusable=drop_unusable)

    async def activate(
        self, site: str, reference: str, *, drop_unusable: bool, force: bool = False
    ) -> AsyncGenerator[RolloverProgress]:
        """Roll a site over to a model of the registry, `name` or `name@version`.

        force: also to a model with a rejected, unjudged or damaged verdict.

        Raises:
            UnknownModelError, ModelUnusableError, ModelRejectedError, and as `Rollovers.run`.
        """
        await asyncio.to_thread(self._store.site, check_site_id(site))
        exact = await self._pool.exact(reference)
        record = await self._admitted(exact, force=force)
        async with aclosing(self._run(site, str(exact), drop_unusable=drop_unusable)) as steps:
            async for step in steps:
                yield replace(step, adaptation=record.adaptation, verdict=record.verdict)

    async def rollback(
        self, site: str, *, drop_unusable: bool, force: bool = False
    ) -> AsyncGenerator[RolloverProgress]:
        """Roll a site over to the model that it used before.

        force: as in `activate`; the verdict on a model may become another one while it is used.

        Raises:
            NoEarlierModelError, and as `activate`.
        """
        earlier = await asyncio.to_thread(self._store.earlier_model, check_site_id(site))
        if earlier is None:
            raise NoEarlierModelError(f"site {site} has used only one model; there is none before")
        exact = ModelReference.parse(earlier.reference)
        record = await self._admitted(exact, force=force)
        steps = self._run(
            site, str(exact), earlier.fingerprint, drop_unusable=drop_unusable, undo=True
        )
        async with aclosing(steps):
            async for step in steps:
                yield replace(step, adaptation=record.adaptation, verdict=record.verdict)

    def site_is_gone(self) -> None:
        """A site was deleted: its model may be used by no other."""
        self._pool.release_unused()

    async def _admitted(self, model: ModelReference, *, force: bool) -> GateRecord:
        """The gate's record of a model; `ModelRejectedError` where it blocks the activation."""
        record = await self._pool.gate_record(model)
        if record.blocks_activation and not force:
            raise ModelRejectedError(
                f"{record.objection(str(model))}; activate another model, or force this one"
            )
        return record

    async def _run(
        self,
        site: str,
        reference: str,
        required: str | None = None,
        *,
        drop_unusable: bool,
        undo: bool = False,
    ) -> AsyncGenerator[RolloverProgress]:
        @asynccontextmanager
        async def activation() -> AsyncIterator[Activation]:
            async with self._pool.held(reference, required) as model:
                yield Activation(site, model.info, model.embed_in_turn, drop_unusable, undo)

        try:
            async with aclosing(self._rollovers.run(site, reference, activation())) as steps:
                async for step in steps:
                    yield step
        finally:
            self._pool.release_unused()
