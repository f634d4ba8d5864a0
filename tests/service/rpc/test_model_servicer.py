"""The RPCs of models."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from service.rpc.model_servicer import ModelServicer
from service.rpc.pb.resight.v1 import model_pb2
from tests.support.galleries import model as model_info
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


async def test_models_in_pages() -> None:
    infos = [model_info(version) for version in ("1", "2", "3", "4", "5")]
    pool = SimpleNamespace(all=lambda: [SimpleNamespace(info=info) for info in infos])
    servicer = ModelServicer(pool)  # type: ignore[arg-type]
    pages: list[list[str]] = []
    token = ""
    while not pages or token:
        request = model_pb2.ListModelsRequest(page_size=2, page_token=token)
        page = await servicer.ListModels(request, None)  # type: ignore[arg-type]
        pages.append([found.name for found in page.models])
        token = page.next_page_token
    names = [f"models/{info.reference}" for info in infos]
    assert pages == [names[:2], names[2:4], names[4:]]


async def test_a_page_that_is_just_full_is_the_last() -> None:
    pool = SimpleNamespace(all=lambda: [SimpleNamespace(info=model_info("1"))])
    servicer = ModelServicer(pool)  # type: ignore[arg-type]
    request = model_pb2.ListModelsRequest(page_size=1)
    page = await servicer.ListModels(request, None)  # type: ignore[arg-type]
    assert len(page.models) == 1
    assert page.next_page_token == ""
