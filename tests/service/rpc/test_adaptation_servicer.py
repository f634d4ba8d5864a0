"""Adaptations over a real channel, in front of processes that do what a test says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from models.job_contract import AdaptationRound
from service.client import CallFailedError
from service.errors import BadLimitError, OverloadedError
from service.jobs.folder import JobFolder
from service.jobs.records import Adaptation, AdaptationSpec, JobState
from service.operations.metrics import Metrics
from service.rpc.adaptation_servicer import AdaptationServicer
from service.rpc.answers import Answers
from service.rpc.convert_adaptation import adaptation_from_wire
from service.rpc.pb.resight.v1 import adaptation_pb2, adaptation_pb2_grpc
from service.types import NewSighting
from tests.support.fake_call import Call
from tests.support.fake_process import FakeProcess, FakeStarter
from tests.support.held_commit import leave_while_a_site_is_deleted
from tests.support.new_sightings import T0
from tests.support.raw_client import reason_of
from tests.support.tiny_model import crop

pytestmark = pytest.mark.asyncio(loop_scope="session")

SPEC = AdaptationSpec("mmt", "mmt_small", ("optimizer.lr=1e-4",), 7)


@pytest.fixture
def starter() -> FakeStarter:
    return FakeStarter()


@pytest_asyncio.fixture(loop_scope="session")
async def lobby(
    start: Any, starter: FakeStarter, tmp_path: Path, request: pytest.FixtureRequest
) -> Any:
    """A server that can adapt, with a site of four crops; its parameter: seconds of the drain."""
    (tmp_path / "init").mkdir()
    running = await start(
        start_process=starter,
        adapt_inits=str(tmp_path / "init"),
        registry=tmp_path / "registry",
        drain_s=getattr(request, "param", 5.0),
    )
    await running.ask(running.client.create_site, "lobby")
    crops = [NewSighting(image=crop(n), camera=f"c{n % 2}", person="Ann") for n in range(4)]
    await running.ask(running.client.enroll, "lobby", crops)
    return running


async def reason(running: Any, call: Callable[..., Any], *arguments: Any) -> tuple[str, str]:
    with pytest.raises(CallFailedError) as error:
        await running.ask(call, *arguments)
    return error.value.code, error.value.reason


async def test_start_watch_list_get(lobby: Any, starter: FakeStarter) -> None:
    client = lobby.client
    job = await lobby.ask(client.start_adaptation, "lobby", SPEC)
    assert (job.site, job.spec, job.state) == ("lobby", SPEC, JobState.PENDING)
    watching = asyncio.create_task(lobby.ask(client.watch_adaptation, "lobby", job.id))
    process = await starter.number(1)
    process.finish_round(1, loss=2.0)
    process.finish_round(2, loss=1.0)
    process.succeed()
    gate = await starter.number(2)
    gate.judge("promote", "better")
    seen = await watching
    assert [round_.number for _, round_ in seen if round_] == [1, 2]
    states = [job.state for job, round_ in seen if round_ is None]
    assert states[-1] is JobState.SUCCEEDED
    assert len(set(states)) == len(states)
    done, rounds = await lobby.ask(client.adaptation, "lobby", job.id)
    assert done == seen[-1][0]
    assert (done.model, done.gate.verdict, done.gate.reasons) == (
        "lobby@1",
        "promote",
        ("better",),
    )
    assert [dict(round_.figures) for round_ in rounds] == [{"loss": 2.0}, {"loss": 1.0}]
    assert await lobby.ask(client.adaptations, "lobby") == [done]
    # A watch of one that is over tells all and ends at once.
    again = await lobby.ask(client.watch_adaptation, "lobby", job.id)
    assert [round_.number for _, round_ in again if round_] == [1, 2]
    assert "Ann" not in "".join(p.read_text() for p in process.folder.rglob("*.json*"))


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"round": 1, "labels": "", "warnings": [], "loss": 1%s}' % ("0" * 400),
        '{"round": 1, "labels": "\\ud800", "warnings": []}',
        "[" * 60_000,
        '{"round": 1, "labels": "%s", "warnings": []}' % ("x" * 65_536),
    ],
    ids=["cut", "huge", "half a character", "deep", "long"],
)
async def test_damaged_rounds_reach_the_client_without_a_path(
    lobby: Any, starter: FakeStarter, tmp_path: Path, line: str
) -> None:
    client = lobby.client
    job = await lobby.ask(client.start_adaptation, "lobby", SPEC)
    process = await starter.number(1)
    process.finish_round(1, loss=2.0)
    (process.folder / "run" / "metrics.jsonl").write_text(f"{line}\n")
    process.fail("DIVERGED", "nan")
    (*_, (last, _)) = await lobby.ask(client.watch_adaptation, "lobby", job.id)
    found, rounds = await lobby.ask(client.adaptation, "lobby", job.id)
    assert (found, rounds) == (last, [])
    assert (found.state, found.reason) == (JobState.FAILED, "DIVERGED")
    assert found.rounds_error.startswith("the rounds of the run cannot be read")
    assert str(tmp_path) not in found.rounds_error


async def test_files_of_a_run_are_read_beside_the_event_loop(
    lobby: Any, starter: FakeStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be large, and all calls would wait."""
    readers: list[threading.Thread] = []
    rounds, rounds_after = JobFolder.rounds, JobFolder.rounds_after

    def all_(folder: JobFolder) -> list[AdaptationRound]:
        readers.append(threading.current_thread())
        return rounds(folder)

    def after(folder: JobFolder, number: int, *, over: bool) -> tuple[list[AdaptationRound], bool]:
        readers.append(threading.current_thread())
        return rounds_after(folder, number, over=over)

    monkeypatch.setattr(JobFolder, "rounds", all_)
    monkeypatch.setattr(JobFolder, "rounds_after", after)
    job = await lobby.ask(lobby.client.start_adaptation, "lobby", SPEC)
    (await starter.number(1)).fail("DIVERGED", "nan")
    await lobby.ask(lobby.client.watch_adaptation, "lobby", job.id)
    assert len(readers) >= 2
    assert threading.main_thread() not in readers


async def test_cancel(lobby: Any, starter: FakeStarter) -> None:
    client = lobby.client
    job = await lobby.ask(client.start_adaptation, "lobby", SPEC)
    process = await starter.number(1)
    assert await lobby.metric("resight_adaptations", state="running") == 1
    await lobby.ask(client.create_site, "yard")
    await lobby.ask(client.enroll, "yard", [NewSighting(image=crop(1), camera="c")])
    waiting = await lobby.ask(client.start_adaptation, "yard", SPEC)
    assert await lobby.metric("resight_adaptations", state="pending") == 1
    gone = await lobby.ask(client.cancel_adaptation, "yard", waiting.id)
    assert gone.state is JobState.CANCELLED
    assert await lobby.metric("resight_adaptations", state="pending") == 0
    asked = await lobby.ask(client.cancel_adaptation, "lobby", job.id)
    assert asked.state is JobState.RUNNING
    seen = await lobby.ask(client.watch_adaptation, "lobby", job.id)
    assert seen[-1][0].state is JobState.CANCELLED
    assert process.said == ["terminate"]
    again = await lobby.ask(client.cancel_adaptation, "lobby", job.id)
    assert again.state is JobState.CANCELLED


async def test_folders_go_although_the_caller_leaves_while_the_site_is_deleted(
    lobby: Any, starter: FakeStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold crops of persons."""
    job = await lobby.ask(lobby.client.start_adaptation, "lobby", SPEC)
    (await starter.number(1)).fail("DIVERGED", "nan")
    await lobby.ask(lobby.client.watch_adaptation, "lobby", job.id)
    folder = starter.started[0].folder
    assert folder.exists()
    await leave_while_a_site_is_deleted(lobby, "lobby", monkeypatch)
    async with asyncio.timeout(10):
        while folder.exists():
            await asyncio.sleep(0.01)


async def test_what_is_refused(lobby: Any, starter: FakeStarter) -> None:
    client = lobby.client
    start = client.start_adaptation
    assert await reason(lobby, start, "nowhere", SPEC) == ("NOT_FOUND", "SITE_NOT_FOUND")
    not_configured = ("FAILED_PRECONDITION", "ADAPTATION_NOT_CONFIGURED")
    assert await reason(lobby, start, "lobby", AdaptationSpec("daal", "daal")) == not_configured
    await lobby.ask(client.create_site, "empty")
    assert await reason(lobby, start, "empty", SPEC) == ("FAILED_PRECONDITION", "NO_CROPS")
    job = await lobby.ask(start, "lobby", SPEC)
    unfinished = ("FAILED_PRECONDITION", "ADAPTATION_UNFINISHED")
    assert await reason(lobby, start, "lobby", SPEC) == unfinished
    assert await reason(lobby, lambda: client.delete_site("lobby", force=True)) == unfinished
    (await starter.number(1)).fail("DIVERGED", "nan")
    await lobby.ask(client.watch_adaptation, "lobby", job.id)
    over = ("FAILED_PRECONDITION", "ADAPTATION_OVER")
    assert await reason(lobby, client.cancel_adaptation, "lobby", job.id) == over
    missing = ("NOT_FOUND", "ADAPTATION_NOT_FOUND")
    for call in (client.adaptation, client.cancel_adaptation, client.watch_adaptation):
        assert await reason(lobby, lambda call=call: list(call("lobby", "none"))) == missing
    folder = starter.started[0].folder
    assert folder.exists()
    await lobby.ask(client.delete_site, "lobby", force=True)
    async with asyncio.timeout(10):
        while folder.exists():
            await asyncio.sleep(0.01)


async def test_malformed_requests(lobby: Any) -> None:
    def call(method: str, request: Any) -> tuple[str, str]:
        with grpc.insecure_channel(lobby.ready.grpc_address) as channel:
            stub = adaptation_pb2_grpc.AdaptationServiceStub(channel)
            with pytest.raises(grpc.RpcError) as error:
                getattr(stub, method)(request, timeout=10)
        status = rpc_status.from_call(error.value)  # type: ignore[arg-type]
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        return error.value.code().name, info.reason

    new = adaptation_pb2.StartAdaptationRequest
    for request, expected in (
        (new(parent="sites/lobby", method="nothing"), "BAD_ADAPTATION"),
        (new(parent="sites/lobby", method="mmt", recipe="../mmt.toml"), "BAD_ADAPTATION"),
        (new(parent="sites/lobby", method="mmt", overrides=["x"]), "BAD_ADAPTATION"),
        (new(parent="sites/lobby", method="mmt", seed=-1), "BAD_ADAPTATION"),
        (new(parent="lobby", method="mmt"), "BAD_NAME"),
        (new(parent="sites/..", method="mmt"), "BAD_NAME"),
    ):
        found = await asyncio.to_thread(call, "StartAdaptation", request)
        assert found == ("INVALID_ARGUMENT", expected), request
    bad = adaptation_pb2.GetAdaptationRequest(name="sites/lobby/adaptations/..")
    assert await asyncio.to_thread(call, "GetAdaptation", bad) == ("INVALID_ARGUMENT", "BAD_NAME")
    page = adaptation_pb2.ListAdaptationsRequest(parent="sites/lobby", page_token="x")  # noqa: S106
    refused = await asyncio.to_thread(call, "ListAdaptations", page)
    assert refused == ("INVALID_ARGUMENT", "BAD_PAGE_TOKEN")


async def test_a_server_without_networks_says_so(start: Any) -> None:
    running = await start()
    await running.ask(running.client.create_site, "lobby")
    refused = await reason(running, running.client.start_adaptation, "lobby", SPEC)
    assert refused == ("FAILED_PRECONDITION", "ADAPTATION_NOT_CONFIGURED")


async def test_pages(lobby: Any, starter: FakeStarter) -> None:
    starter.script = FakeProcess.succeed
    names = []
    for _ in range(3):
        job = await lobby.ask(lobby.client.start_adaptation, "lobby", SPEC)
        await lobby.ask(lobby.client.watch_adaptation, "lobby", job.id)
        names.append(f"sites/lobby/adaptations/{job.id}")

    def pages() -> list[list[str]]:
        found: list[list[str]] = []
        with grpc.insecure_channel(lobby.ready.grpc_address) as channel:
            stub = adaptation_pb2_grpc.AdaptationServiceStub(channel)
            request = adaptation_pb2.ListAdaptationsRequest(parent="sites/lobby", page_size=2)
            while True:
                answer = stub.ListAdaptations(request, timeout=10)
                found.append([job.name for job in answer.adaptations])
                request.page_token = answer.next_page_token
                if not request.page_token:
                    return found

    found = await asyncio.to_thread(pages)
    assert [len(page) for page in found] == [2, 1]
    assert names == [name for page in found for name in page]


@pytest.mark.parametrize("lobby", [3600.0], indirect=True)
async def test_a_watch_does_not_hold_up_a_stop(lobby: Any, starter: FakeStarter) -> None:
    job = await lobby.ask(lobby.client.start_adaptation, "lobby", SPEC)
    await starter.number(1)
    watching = asyncio.create_task(lobby.ask(lobby.client.watch_adaptation, "lobby", job.id))
    async with asyncio.timeout(60):
        while not await lobby.metric("resight_rpc_in_flight"):
            await asyncio.sleep(0.01)
        await lobby.server.stop()
    with pytest.raises(CallFailedError) as error:
        await watching
    assert (error.value.code, error.value.reason) == ("UNAVAILABLE", "SHUTTING_DOWN")


async def test_a_watch_ends_with_the_client_who_asked_for_it(
    lobby: Any, starter: FakeStarter
) -> None:
    job = await lobby.ask(lobby.client.start_adaptation, "lobby", SPEC)
    await starter.number(1)
    async with grpc.aio.insecure_channel(lobby.ready.grpc_address) as channel:
        stub = adaptation_pb2_grpc.AdaptationServiceStub(channel)
        request = adaptation_pb2.WatchAdaptationRequest(name=f"sites/lobby/adaptations/{job.id}")
        watching = stub.WatchAdaptation(request)
        await watching.read()
        async with asyncio.timeout(10):
            while await lobby.metric("resight_rpc_in_flight") != 1:
                await asyncio.sleep(0.01)
        watching.cancel()
    async with asyncio.timeout(10):
        while await lobby.metric("resight_rpc_in_flight"):
            await asyncio.sleep(0.01)
    assert (await lobby.ask(lobby.client.adaptation, "lobby", job.id))[0].state is JobState.RUNNING


async def test_watches_do_not_take_the_places_of_calls(
    start: Any, starter: FakeStarter, tmp_path: Path
) -> None:
    (tmp_path / "init").mkdir()
    running = await start(
        start_process=starter,
        adapt_inits=str(tmp_path / "init"),
        max_concurrent_calls=1,
        max_streams=2,
    )
    await running.ask(running.client.create_site, "lobby")
    await running.ask(running.client.enroll, "lobby", [NewSighting(image=crop(1), camera="c")])
    job = await running.ask(running.client.start_adaptation, "lobby", SPEC)
    name = f"sites/lobby/adaptations/{job.id}"
    async with grpc.aio.insecure_channel(running.ready.grpc_address) as channel:
        stub: Any = adaptation_pb2_grpc.AdaptationServiceStub(channel)
        request = adaptation_pb2.WatchAdaptationRequest(name=name)
        watches = [stub.WatchAdaptation(request) for _ in range(2)]
        for watch in watches:
            assert (await watch.read()).adaptation.name == name
        with pytest.raises(grpc.aio.AioRpcError, match="2 watches are running already") as error:
            await stub.WatchAdaptation(request).read()
        assert reason_of(error.value) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        assert (await running.ask(running.client.site, "lobby")).id == "lobby"
        moved = await running.ask(running.client.reembed_site, "lobby")
        assert moved[-1].site.ready
        watches[0].cancel()
        async with asyncio.timeout(10):
            while await running.metric("resight_rpc_in_flight") > 1:
                await asyncio.sleep(0.01)
        assert (await stub.WatchAdaptation(request).read()).adaptation.name == name


class Rows:
    """Adaptations that are over, as `service.jobs.api.Adaptations` gives them."""

    def __init__(self, count: int) -> None:
        self.all = [
            Adaptation(f"a{n}", "lobby", SPEC, JobState.FAILED, T0, error="why" * 100)
            for n in range(count)
        ]

    async def page(
        self, site: str, *, after: str, limit: int, max_bytes: int
    ) -> tuple[list[Adaptation], bool]:
        found = [each for each in self.all if each.id > after]
        return found[:limit], limit < len(found)

    async def page_bytes(self, site: str, *, after: str, limit: int) -> int:
        return 400 * limit


async def test_pages_end_before_they_are_too_large(metrics: Metrics) -> None:
    rows, answers = Rows(5), Answers(metrics, max_bytes=1000, total=10**6, threads=1)
    servicer = AdaptationServicer(rows, answers)  # type: ignore[arg-type]
    request = adaptation_pb2.ListAdaptationsRequest(parent="sites/lobby")
    pages: list[adaptation_pb2.ListAdaptationsResponse] = []
    while not pages or request.page_token:
        call, free = Call("a"), answers._budget.free
        raw = await servicer.ListAdaptations(request, call)  # type: ignore[arg-type]
        assert answers._budget.free == free - len(raw), "it counts until its client has read it"
        call.end()
        pages.append(adaptation_pb2.ListAdaptationsResponse.FromString(raw))
        request.page_token = pages[-1].next_page_token
    assert [len(page.adaptations) for page in pages] == [2, 2, 1]
    found = [adaptation_from_wire(each)[0] for page in pages for each in page.adaptations]
    assert found == rows.all
    answers.close()


class Rounds:
    """An adaptation of many rounds, of which two are read at a time."""

    def __init__(self, count: int) -> None:
        self.all = [AdaptationRound(n + 1, "why" * 50, (), {"loss": n}) for n in range(count)]

    async def get(
        self, site: str, adaptation: str, after: int
    ) -> tuple[Adaptation, list[AdaptationRound]]:
        found = Adaptation("a", "lobby", SPEC, JobState.RUNNING, T0, rounds_left=after < 3)
        return found, self.all[after : after + 2]


@pytest.mark.parametrize(("max_bytes", "pages"), [(10_000, [2, 2, 1]), (10, [1] * 5)])
async def test_the_rounds_of_an_adaptation_come_in_parts(
    metrics: Metrics, max_bytes: int, pages: list[int]
) -> None:
    rounds, answers = Rounds(5), Answers(metrics, max_bytes=max_bytes, total=10**6, threads=1)
    servicer = AdaptationServicer(rounds, answers)  # type: ignore[arg-type]
    request = adaptation_pb2.GetAdaptationRequest(name="sites/lobby/adaptations/a")
    found: list[adaptation_pb2.Adaptation] = []
    while not found or found[-1].rounds_left:
        call = Call("a")
        raw = await servicer.GetAdaptation(request, call)  # type: ignore[arg-type]
        call.end()
        found.append(adaptation_pb2.Adaptation.FromString(raw))
        assert found[-1].state == adaptation_pb2.Adaptation.STATE_RUNNING
        request.after_round = found[-1].rounds[-1].number
    assert [len(each.rounds) for each in found] == pages
    assert [round_ for each in found for round_ in adaptation_from_wire(each)[1]] == rounds.all
    request.after_round = -1
    with pytest.raises(BadLimitError, match="after_round is -1; give 0"):
        await servicer.GetAdaptation(request, Call("a"))  # type: ignore[arg-type]
    answers.close()


async def test_the_client_and_a_watch_ask_until_they_have_all_rounds(
    lobby: Any, starter: FakeStarter
) -> None:
    job = await lobby.ask(lobby.client.start_adaptation, "lobby", SPEC)
    process = await starter.number(1)
    figures = {f"figure {n}": n / 7 for n in range(1000)}
    for number in range(1, 31):
        process.finish_round(number, **figures)
    process.fail("DIVERGED", "nan")
    seen = await lobby.ask(lobby.client.watch_adaptation, "lobby", job.id)
    found, rounds = await lobby.ask(lobby.client.adaptation, "lobby", job.id)
    assert [round_.number for round_ in rounds] == list(range(1, 31))
    assert [round_ for _, round_ in seen if round_] == rounds
    assert found == seen[-1][0]


async def test_an_adaptation_is_not_read_without_room_for_its_answer(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.rpc.answers.TURN_S", 0.01)
    answers = Answers(metrics, max_bytes=1000, total=2000, threads=1)
    for client in "ab":
        await answers.reserve(1000, Call(client))  # type: ignore[arg-type]
    rows = Rows(5)
    monkeypatch.setattr(rows, "page", None)
    servicer = AdaptationServicer(rows, answers)  # type: ignore[arg-type]
    one = adaptation_pb2.GetAdaptationRequest(name="sites/lobby/adaptations/a")
    with pytest.raises(OverloadedError):
        await servicer.GetAdaptation(one, Call("c"))  # type: ignore[arg-type]
    every = adaptation_pb2.ListAdaptationsRequest(parent="sites/lobby")
    with pytest.raises(OverloadedError):
        await servicer.ListAdaptations(every, Call("c"))  # type: ignore[arg-type]
    answers.close()
