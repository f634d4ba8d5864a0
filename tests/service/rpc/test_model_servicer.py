"""The RPCs of models."""

from __future__ import annotations

import asyncio

import pytest

from service.rpc.pb.resight.v1 import model_pb2
from tests.support.raw_client import RawClient
from tests.support.running_server import Running

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_models(shared_server: Running, raw: RawClient) -> None:
    (model,) = await shared_server.ask(shared_server.client.models)
    assert model == shared_server.ready.model
    got = await asyncio.to_thread(
        raw.models.GetModel, model_pb2.GetModelRequest(name="models/fake@1")
    )
    assert got.fingerprint == model.fingerprint
