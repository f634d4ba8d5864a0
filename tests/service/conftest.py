from __future__ import annotations

from pathlib import Path

import pytest

from models.bundle import Bundle
from service.metrics import Metrics, new_metrics
from tests.support.tiny_model import write_tiny_bundle


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Another model: version 2 of `tiny_bundle`, with other vectors."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "other", version="2", shift=40.0)


@pytest.fixture
def metrics() -> Metrics:
    return new_metrics()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"
