"""More calls at a time than the event loop takes: those of others wait, and are not cancelled."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

import grpc

from service.rpc.pb.resight.v1 import site_pb2, site_pb2_grpc
from tests.support.server_process import START_S, ServerProcess

CONNECTIONS, CALLS = 5, 300


def test_no_call_is_cancelled_while_many_wait(start: Callable[..., ServerProcess]) -> None:
    server = start(max_concurrent_calls=CONNECTIONS * CALLS)
    with server.client() as client:
        client.create_site("lobby")
    request = site_pb2.GetSiteRequest(name="sites/lobby")
    with ExitStack() as stack:
        channels = [
            stack.enter_context(
                grpc.insecure_channel(
                    server.address, options=[("grpc.use_local_subchannel_pool", 1)]
                )
            )
            for _ in range(CONNECTIONS)
        ]
        for channel in channels:
            grpc.channel_ready_future(channel).result(START_S)
        server.process.send_signal(signal.SIGSTOP)  # so all of them arrive at once
        answers = [
            site_pb2_grpc.SiteServiceStub(channel).GetSite.future(request, timeout=START_S)
            for channel in channels
            for _ in range(CALLS)
        ]
        server.process.send_signal(signal.SIGCONT)
        codes = Counter(answer.code() for answer in answers)
    assert codes.keys() <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert codes.total() == CONNECTIONS * CALLS
