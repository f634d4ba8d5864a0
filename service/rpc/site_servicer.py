"""The RPCs of sites and of the models that they use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from google.protobuf.empty_pb2 import Empty

from service.gallery.gallery import Gallery
from service.jobs.api import Adaptations
from service.rollover.activation import Activator
from service.rpc import convert, names
from service.rpc.calls import Context
from service.rpc.paging import decode_token, encode_token, page_size
from service.rpc.pb.resight.v1 import site_pb2, site_pb2_grpc
from service.store.completion import completed


class SiteServicer(site_pb2_grpc.SiteServiceServicer):
    """SiteService."""

    def __init__(self, gallery: Gallery, activator: Activator, adaptations: Adaptations) -> None:
        self._gallery = gallery
        self._activator = activator
        self._adaptations = adaptations

    async def CreateSite(  # noqa: N802
        self, request: site_pb2.CreateSiteRequest, context: Context
    ) -> site_pb2.Site:
        return convert.site_to_wire(await self._gallery.create_site(request.site_id))

    async def GetSite(  # noqa: N802
        self, request: site_pb2.GetSiteRequest, context: Context
    ) -> site_pb2.Site:
        return convert.site_to_wire(await self._gallery.site(names.parse_site(request.name)))

    async def ListSites(  # noqa: N802
        self, request: site_pb2.ListSitesRequest, context: Context
    ) -> site_pb2.ListSitesResponse:
        size = page_size(request.page_size)
        after = decode_token(b"sites", request.page_token)
        sites = [site for site in await self._gallery.sites() if site.id > after]
        more = len(sites) > size
        return site_pb2.ListSitesResponse(
            sites=[convert.site_to_wire(site) for site in sites[:size]],
            next_page_token=encode_token(b"sites", sites[size - 1].id) if more else "",
        )

    async def DeleteSite(  # noqa: N802
        self, request: site_pb2.DeleteSiteRequest, context: Context
    ) -> Empty:
        await completed(self._delete(names.parse_site(request.name), force=request.force))
        return Empty()

    async def _delete(self, site: str, *, force: bool) -> None:
        await self._gallery.delete_site(site, force=force)
        self._adaptations.site_is_gone()
        self._activator.site_is_gone()

    async def ReembedSite(  # noqa: N802
        self, request: site_pb2.ReembedSiteRequest, context: Context
    ) -> AsyncIterator[site_pb2.ReembedSiteResponse]:
        site = names.parse_site(request.name)
        steps = self._activator.activate_own(site, drop_unusable=request.drop_unusable)
        async with aclosing(steps):
            async for step in steps:
                yield convert.progress_to_wire(step)

    async def ActivateModel(  # noqa: N802
        self, request: site_pb2.ActivateModelRequest, context: Context
    ) -> AsyncIterator[site_pb2.ReembedSiteResponse]:
        site = names.parse_site(request.name)
        model = names.parse_model_or_name(request.model)
        steps = self._activator.activate(
            site, model, drop_unusable=request.drop_unusable, force=request.force
        )
        async with aclosing(steps):
            async for step in steps:
                yield convert.progress_to_wire(step)

    async def RollbackModel(  # noqa: N802
        self, request: site_pb2.RollbackModelRequest, context: Context
    ) -> AsyncIterator[site_pb2.ReembedSiteResponse]:
        site = names.parse_site(request.name)
        steps = self._activator.rollback(
            site, drop_unusable=request.drop_unusable, force=request.force
        )
        async with aclosing(steps):
            async for step in steps:
                yield convert.progress_to_wire(step)
