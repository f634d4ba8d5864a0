"""A real server in a process of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from models.bundle import Bundle
from tests.support import command_line, waiting
from tests.support.server_process import START_S, ServerProcess, resight
from tests.support.tiny_model import write_tiny_bundle


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "other", version="2", shift=40.0)


@pytest.fixture
def start(tmp_path: Path, tiny_bundle: Bundle) -> Iterator[Callable[..., ServerProcess]]:
    """Start a server on the test's data folder."""
    servers: list[ServerProcess] = []

    def started(model: Path | None = None, *options: object, **settings: object) -> ServerProcess:
        server = ServerProcess(tmp_path / "data", model or tiny_bundle.path, *options, **settings)
        servers.append(server)
        return server

    yield started
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def shared_server(
    tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Bundle
) -> Iterator[ServerProcess]:
    """One server for the tests of a module, each with a site of its own."""
    server = ServerProcess(
        tmp_path_factory.mktemp("shared") / "data",
        tiny_bundle.path,
        max_items=64,
        max_message_bytes=4_500_000,
        max_image_bytes=200_000,
        max_image_pixels=250_000,
    )
    yield server
    server.close()


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `resight` to its end, in the test's process; RESIGHT_ variables by their names."""
    return command_line.resight


@pytest.fixture
def command_process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """As `command`, in a process of its own."""

    def run(*arguments: object, **settings: object) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RESIGHT_")}
        environment |= {f"RESIGHT_{name.upper()}": str(v) for name, v in settings.items()}
        return subprocess.run(
            resight(*arguments),
            capture_output=True,
            text=True,
            timeout=START_S,
            env=environment,
            check=False,
        )

    return run


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Wait until a condition holds."""
    return waiting.eventually
