"""A commit that waits in the writer's thread, so that a caller can leave meanwhile."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from service.rpc.pb.resight.v1.site_pb2 import DeleteSiteRequest
from service.store.place import Place
from service.store.store import Store
from tests.support.raw_client import RawClient
from tests.support.running_server import Running


class HeldCommit:
    """From `hold` on the next commit waits until `release`; then it is as if it took long."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._armed = threading.Event()
        self._entered = threading.Event()
        self._go = threading.Event()
        check = Place.check

        def held_up(place: Place) -> None:
            if self._armed.is_set():
                self._armed.clear()
                self._entered.set()
                assert self._go.wait(20)
            check(place)

        monkeypatch.setattr(Place, "check", held_up)

    def hold(self) -> None:
        self._armed.set()

    async def entered(self) -> None:
        """Wait until a commit is held: its write can be cancelled no more."""
        assert await asyncio.to_thread(self._entered.wait, 20)

    def release(self) -> None:
        self._go.set()


async def leave_while_a_site_is_deleted(
    running: Running, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delete a site by a call that is cancelled, in the server too, before the commit ends."""
    commit = HeldCommit(monkeypatch)
    delete_site = Store.delete_site

    def held_up(*args: Any, **named: Any) -> Any:
        commit.hold()
        return delete_site(*args, **named)

    monkeypatch.setattr(Store, "delete_site", held_up)
    with RawClient(running.ready.grpc_address) as raw:
        call = raw.sites.DeleteSite.future(DeleteSiteRequest(name=f"sites/{site}", force=True))
        await commit.entered()
        tasks = [task for task in asyncio.all_tasks() if not task.cancelling()]
        call.cancel()
        async with asyncio.timeout(10):
            while not any(task.cancelling() for task in tasks):
                await asyncio.sleep(0.001)
    for _ in range(5):
        await asyncio.sleep(0)
    commit.release()
