"""A server of this process, and a client of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from service.app import Ready, Server
from service.client import ResightClient


class Running:
    """A server of this process, and a client of it."""

    def __init__(self, server: Server, ready: Ready) -> None:
        self.server = server
        self.ready = ready
        self.client = ResightClient(ready.grpc_address, timeout_s=20)

    async def metric(self, name: str, **labels: str) -> float:
        """A value of the server's metrics page, 0 where it is not there."""

        def work() -> float:
            with urlopen(f"http://{self.ready.http_address}/metrics", timeout=10) as page:
                text = page.read().decode()
            return sum(
                sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name == name and labels.items() <= sample.labels.items()
            )

        return await asyncio.to_thread(work)

    async def ask(self, call: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """A call of the (blocking) client, in a thread; generators are read to their end."""

        def work() -> Any:
            answer = call(*args, **named)
            return list(answer) if hasattr(answer, "__next__") else answer

        return await asyncio.to_thread(work)

    async def stop(self) -> None:
        """Close the client and end the server."""
        self.client.close()
        await self.server.stop()
