"""Start, stop, crash and change of model of a real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from models.bundle import Bundle
from service.client import CallFailedError, ClientError, ResightClient, ServerUnreachableError
from service.types import Enrolled, NewSighting
from tests.support.server_process import resight
from tests.support.tiny_model import crop, embed_files

Start = Callable[..., Any]
Command = Callable[..., subprocess.CompletedProcess[str]]
Eventually = Callable[[Callable[[], bool]], None]


def make(*numbers: int) -> list[NewSighting]:
    return [NewSighting(image=crop(n), camera=f"c{n % 2}", id=f"s{n:04d}") for n in numbers]


def test_kill_9_in_the_middle_of_enrolling_loses_nothing_that_was_acknowledged(
    start: Start, eventually: Eventually
) -> None:
    server = start()
    with server.client() as client:
        client.create_site("lobby")
    acknowledged: list[set[str]] = [set() for _ in range(3)]

    def enroll(worker: int) -> None:
        with server.client() as client:
            number = worker * 10_000
            while True:
                try:
                    (result,) = client.enroll("lobby", make(number))
                except ClientError:
                    return
                assert isinstance(result, Enrolled)
                acknowledged[worker].add(result.sighting.id)
                number += 1

    threads = [threading.Thread(target=enroll, args=(worker,)) for worker in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: min(map(len, acknowledged)) >= 10)
    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()

    known = set.union(*acknowledged)
    with start().client() as client:
        stored = {sighting.id for sighting in client.sightings("lobby")}
        assert known <= stored
        assert len(stored - known) <= 3, "at most one unanswered call of each worker"
        numbers = sorted(int(name[1:]) for name in stored)
        # The rebuilt index knows them all, with the right vectors.
        answer = client.search("lobby", crop(numbers[0]), limit=len(numbers))
        assert {match.sighting.id for match in answer.matches} == stored
        vectors = embed_files([crop(n) for n in numbers])
        scores = dict(zip(numbers, vectors @ vectors[0], strict=True))
        for match in answer.matches:
            assert match.score == pytest.approx(scores[int(match.sighting.id[1:])], abs=1e-5)


def test_sigterm_lets_running_calls_end(start: Start, eventually: Eventually) -> None:
    # One thread and one image per run, so that the call takes a while.
    server = start(max_batch=1, engine_threads=1, decode_threads=1)
    with server.client() as client:
        client.create_site("lobby")
    results: list[Any] = []
    errors: list[Exception] = []

    def enroll() -> None:
        with server.client() as client:
            request = [
                NewSighting(
                    image=crop(n, height=1200, width=1200, suffix=".jpg"), camera="c", id=f"s{n}"
                )
                for n in range(20)
            ]
            try:
                results.extend(client.enroll("lobby", request))
            except ClientError as error:
                errors.append(error)

    thread = threading.Thread(target=enroll)
    thread.start()
    eventually(lambda: "resight_queue_depth 0.0" not in server.page("/metrics"))
    assert server.stop() == 0
    thread.join(30)
    assert errors == []
    assert len(results) == 20
    assert all(isinstance(result, Enrolled) for result in results)
    assert "stopped" in server.log
    assert "Traceback" not in server.log
    with pytest.raises(ServerUnreachableError), server.client() as client:
        client.site("lobby")
    with start().client() as client:
        assert client.site("lobby").sightings == 20


def image_health(address: str) -> int:
    """Exit code of the image's health check where the page of health is at this address."""
    text = (Path(__file__).parents[2] / "Dockerfile").read_text()
    found = re.search(r"^HEALTHCHECK .*\\\n\s+CMD (\[.*\])$", text, re.MULTILINE)
    assert found
    _, *arguments = json.loads(found[1])
    environment = os.environ | {"RESIGHT_HTTP": address}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, check=False
    ).returncode


def test_health_says_not_serving_while_a_call_still_runs(
    start: Start, eventually: Eventually
) -> None:
    server = start(drain_s=20)
    assert image_health(server.http) == 0
    assert image_health(f"0.0.0.0:{server.http.rpartition(':')[2]}") == 0
    states: list[int] = []
    with grpc.insecure_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service=""), timeout=30
        )

        def follow() -> None:
            with suppress(grpc.RpcError):
                states.extend(answer.status for answer in watch)

        follower = threading.Thread(target=follow)
        follower.start()
        serving = health_pb2.HealthCheckResponse
        eventually(lambda: states == [serving.SERVING])
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: states == [serving.SERVING, serving.NOT_SERVING])
        watch.cancel()
        follower.join(30)
    assert server.process.wait(30) == 0
    assert image_health(server.http) == 1


def test_a_terminal_that_is_closed_stops_the_server_cleanly(start: Start) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    try:
        server = start()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert server.stop(signal.SIGHUP) == 0
    assert "stopped" in server.log


def test_a_server_whose_output_nobody_reads_serves(
    tmp_path: Path, tiny_bundle: Bundle, eventually: Eventually
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    said = tmp_path / "said"
    ports = ("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
    folders = ("--data-dir", tmp_path / "data", "--model", tiny_bundle.path)
    with said.open("wb") as errors:
        server = subprocess.Popen(resight("serve", *folders, *ports), stdout=writing, stderr=errors)
    os.close(writing)
    eventually(lambda: "the ready line cannot be printed" in said.read_text())
    server.send_signal(signal.SIGTERM)
    assert server.wait(30) == 0
    assert "Traceback" not in said.read_text()


def test_a_second_server_is_refused(
    start: Start, command_process: Command, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    server = start()
    serve = ["serve", "--model", tiny_bundle.path, "--http", "127.0.0.1:0"]
    same_folder = command_process(*serve, "--data-dir", server.data_dir, "--listen", "127.0.0.1:0")
    other = tmp_path / "other"
    same_port = command_process(*serve, "--data-dir", other, "--listen", server.address)
    for refused, message in (
        (same_folder, f"another server (process {server.process.pid}) uses the data folder"),
        (same_port, f"cannot listen on {server.address}"),
    ):
        assert (refused.returncode, refused.stdout) == (1, "")
        (line,) = [x for x in refused.stderr.splitlines() if x.startswith("error: ")]
        assert message in line
        assert "Traceback" not in refused.stderr
    with server.client() as client:
        client.create_site("still-fine")


def test_another_model(start: Start, command: Command, other_bundle: Bundle) -> None:
    server = start()
    with server.client() as client:
        client.create_site("lobby")
        list(client.enroll("lobby", make(*range(8))))
    assert server.stop() == 0

    server = start(other_bundle.path)
    with server.client() as client:
        assert not client.site("lobby").ready
        for call in (
            lambda: client.search("lobby", crop(1)),
            lambda: list(client.enroll("lobby", make(9))),
        ):
            with pytest.raises(CallFailedError, match="resight site reembed lobby") as error:
                call()
            assert error.value.reason == "MODEL_MISMATCH"
        done = command("site", "reembed", "lobby", server=server.address)
        assert (done.returncode, done.stdout) == (0, "tiny@2\n")
        answer = client.search("lobby", crop(3), limit=8)
        vectors = embed_files([crop(n) for n in range(8)], shift=40.0)
        scores = vectors @ vectors[3]
        order = np.argsort(-scores)
        assert [match.sighting.id for match in answer.matches] == [f"s{n:04d}" for n in order]
        np.testing.assert_allclose([m.score for m in answer.matches], scores[order], atol=1e-5)
        assert answer.model == "tiny@2"


def test_kill_9_in_the_middle_of_a_move_leaves_the_site_as_it_was(
    start: Start, command: Command, other_bundle: Bundle, tmp_path: Path
) -> None:
    registry = tmp_path / "registry"
    assert command("models", "add", other_bundle.path, registry=registry).returncode == 0
    # A batch of one crop: the move is far from its end when its first step arrives.
    settings = {"registry": registry, "max_items": 64, "max_batch": 1}
    server = start(**settings)
    numbers = range(200)
    with server.client() as client:
        client.create_site("lobby")
        assert all(isinstance(r, Enrolled) for r in client.enroll("lobby", make(*numbers)))
        first = next(client.activate_model("lobby", "tiny@2"))
        assert (first.site.model, first.total) == ("tiny@1", 200)
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL

    server = start(**settings)
    with server.client() as client:
        check_ranking(client, numbers, "tiny@1", shift=0.0)
        before, *_ = list(client.activate_model("lobby", "tiny@2"))
        assert before.embedded >= first.embedded, "it continues"
        check_ranking(client, numbers, "tiny@2", shift=40.0)


def check_ranking(client: ResightClient, numbers: range, model: str, shift: float) -> None:
    """A search for crop 3 gives what one model gives, in full."""
    answer = client.search("lobby", crop(3), limit=len(numbers))
    vectors = embed_files([crop(n) for n in numbers], shift=shift)
    scores = {f"s{n:04d}": score for n, score in zip(numbers, vectors @ vectors[3], strict=True)}
    assert answer.model == model
    assert {match.sighting.id for match in answer.matches} == set(scores)
    for match in answer.matches:
        assert match.score == pytest.approx(scores[match.sighting.id], abs=1e-5)


def test_a_bundle_that_was_tampered_with(
    command_process: Command, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny_bundle.path, tmp_path / "copy")
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"\0")
    done = command_process("serve", "--data-dir", tmp_path / "data", "--model", copy)
    assert done.returncode == 1
    assert "differing ['model.onnx']" in done.stderr, "not that ONNX Runtime cannot read it"
    assert "Traceback" not in done.stderr


def test_ready_line_log_and_ctrl_c(start: Start) -> None:
    server = start(max_item=70)
    assert "RESIGHT_MAX_ITEM" in server.log, "a variable that names no setting"
    assert server.ready.startswith("ready: grpc 127.0.0.1:")
    assert "model tiny@1 (24-d, cpu), sites 0, sightings 0" in server.ready
    with server.client() as client:
        client.create_site("lobby")
        list(
            client.enroll(
                "lobby",
                [
                    NewSighting(image=crop(1), camera="c", id="x", person="Ann Example"),
                    NewSighting(image=b"bad bytes here", camera="c", person="Bob Example"),
                ],
            )
        )
    started = time.monotonic()
    assert server.stop(signal.SIGINT) == 0
    assert time.monotonic() - started < 9, "with nothing to drain, the drain need not be waited for"
    for secret in ("Ann", "Bob", "bad bytes", "PNG", "Traceback"):
        assert secret not in server.log, "labels and crops do not belong in the log"
