"""The RPCs of sites; those of their models: tests/service/rollover/test_activation.py."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from service.rpc.pb.resight.v1 import site_pb2
from tests.support.raw_client import RawClient

pytestmark = pytest.mark.asyncio(loop_scope="session")

Start = Callable[..., Awaitable[Any]]


async def test_pages(start: Start) -> None:
    running = await start()
    for site in ("b", "a", "c"):
        await running.ask(running.client.create_site, site)
    with RawClient(running.ready.grpc_address) as raw:
        first = await asyncio.to_thread(raw.sites.ListSites, site_pb2.ListSitesRequest(page_size=2))
        rest = await asyncio.to_thread(
            raw.sites.ListSites, site_pb2.ListSitesRequest(page_token=first.next_page_token)
        )
    assert [site.name for site in first.sites] == ["sites/a", "sites/b"]
    assert [site.name for site in rest.sites] == ["sites/c"]
    assert rest.next_page_token == ""
