"""Which tests `make test-fast` leaves out, and networks that cost little."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("resight", deadline=None)  # no test depends on the machine's speed
settings.load_profile("resight")

TESTS = Path(__file__).parent

SLOW = (
    "adapt/clustering/graph/test_identical_labels.py",
    "adapt/data/decoding/test_run_crops.py",
    "adapt/evaluation/test_gate.py",
    "adapt/report/test_material.py",
    "adapt/report/test_run_report.py",
    "adapt/runtime/test_compute.py",
    "adapt/runtime/test_distributed.py",
    "adapt/training/test_sharding.py",
    "adapt/workflows",
    "benchmarks",
    "cli/test_demo.py",
    "cli/test_gating.py",
    "cli/test_reporting.py",
    "cli/test_reproducing.py",
    "cli/test_resuming.py",
    "cli/test_runs.py",
    "cli/test_several_processes.py",
    "cli/test_training.py",
    "e2e",
    "faults",
    "models/backbones",
    "service/rollover/test_activation.py",
    "service/test_app.py",
)
"""Folders and files whose tests train networks, read ones of full size, or start processes or
servers: each test is marked `slow`.

Elsewhere a test that takes more than a second of a core has the mark itself."""

SERVERS = {"start", "shared_server"}
"""Fixtures that start a server: each test that uses one is marked `slow` too."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gone = [entry for entry in SLOW if not (TESTS / entry).exists()]
    if gone:
        raise pytest.UsageError(f"SLOW in {__file__} names {gone}: remove what has gone")
    for item in items:
        starts_server = SERVERS.intersection(getattr(item, "fixturenames", ()))
        if starts_server or any(item.path.is_relative_to(TESTS / entry) for entry in SLOW):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def level_of_the_log() -> Iterator[None]:
    """The command line sets it, for its process: no test finds what another one left."""
    logger = logging.getLogger("resight")
    before = logger.level
    yield
    logger.setLevel(before)


@pytest.fixture(scope="module")
def thin() -> Iterator[None]:
    """Thin trunks for all tests of a module, by `pytestmark = pytest.mark.usefixtures("thin")`."""
    from tests.support.thin_trunks import thin_trunks

    with thin_trunks():
        yield
