"""The generated stubs, for calls that the client would never make."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from service.rpc.pb.resight.v1 import (
    adaptation_pb2_grpc,
    embedding_pb2_grpc,
    gallery_pb2_grpc,
    model_pb2_grpc,
    site_pb2_grpc,
)


class RawClient:
    """A stub of each service at one address."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self.sites = site_pb2_grpc.SiteServiceStub(self.channel)
        self.gallery = gallery_pb2_grpc.GalleryServiceStub(self.channel)
        self.embedding = embedding_pb2_grpc.EmbeddingServiceStub(self.channel)
        self.models = model_pb2_grpc.ModelServiceStub(self.channel)
        self.adaptations = adaptation_pb2_grpc.AdaptationServiceStub(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()


def _read(answer: Any) -> None:
    if hasattr(answer, "__next__"):
        list(answer)


def reason_of(error: Any) -> tuple[str, str]:
    """(code, reason) of the error of a call."""
    details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(details)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "resight"
    assert status.message
    return error.code().name, info.reason


async def refusal(method: Callable[..., Any], request: Any) -> tuple[str, str]:
    """(code, reason) that a call is refused with."""

    def call() -> tuple[str, str]:
        with pytest.raises(grpc.RpcError) as error:
            _read(method(request, timeout=10))
        return reason_of(error.value)

    return await asyncio.to_thread(call)
