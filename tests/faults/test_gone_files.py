"""The data folder goes away under a server: nothing is acknowledged that nobody would find."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from service.client import CallFailedError
from service.types import Enrolled
from tests.support.new_sightings import sightings
from tests.support.server_process import ServerProcess
from tests.support.tiny_model import crop
from tests.support.waiting import eventually


def test_a_moved_folder_refuses_writes_until_it_is_back(
    start: Callable[..., ServerProcess],
) -> None:
    server = start()
    away = server.data_dir.with_name("away")
    with server.client() as client:
        client.create_site("lobby")
        list(client.enroll("lobby", sightings(3)))
        server.data_dir.rename(away)
        for _ in range(2):
            with pytest.raises(CallFailedError, match="was removed, moved or replaced"):
                list(client.enroll("lobby", sightings(4)))
        with pytest.raises(CallFailedError, match="was removed, moved or replaced"):
            client.delete_site("lobby", force=True)
        assert len(client.search("lobby", crop(0), limit=10).matches) == 3
        assert "resight_store_writable 0.0" in server.page("/metrics")
        away.rename(server.data_dir)
        results = list(client.enroll("lobby", sightings(4)))
        assert all(isinstance(result, Enrolled) for result in results)
        eventually(lambda: "resight_store_writable 1.0" in server.page("/metrics"))
    assert server.stop() == 0
    assert server.log.count("writes refused") == 1
    assert "Traceback" not in server.log


def test_a_deleted_folder_refuses_writes(start: Callable[..., ServerProcess]) -> None:
    server = start()
    with server.client() as client:
        client.create_site("lobby")
        shutil.rmtree(server.data_dir)
        with pytest.raises(CallFailedError, match="restore the database from a backup"):
            list(client.enroll("lobby", sightings(1)))
        assert client.site("lobby").sightings == 0
    assert server.stop() == 0
