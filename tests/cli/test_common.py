from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from cli.common import short_time, table
from tests.support.command_line import resight


def test_table() -> None:
    text = table(["n", "name", "empty"], [["1", "a", ""], ["20", "", ""]], right=[0])
    assert text.splitlines() == [" n  name", " 1  a", "20  -"]


def test_names_that_look_alike_are_told_apart() -> None:
    text = table(["camera", "n"], [["Hall", "1"], ["Ha\u200bll", "2"]])
    assert text.splitlines() == ["camera      n", "Hall        1", r"Ha\u200bll  2"]


def test_times_are_utc() -> None:
    zone = timezone(timedelta(hours=2))
    assert short_time(datetime(2026, 1, 1, 1, 2, 3, 999, zone)) == "2025-12-31 23:02:03"


@pytest.mark.parametrize(
    "address",
    ["localhost", "127.0.0.1:99999", "127.0.0.1:0", "http://127.0.0.1:50051", "a:b", "a:1/x", ""],
)
def test_a_server_is_host_and_port(address: str) -> None:
    """gRPC would connect to port 34463 for 99999, and to 443 for none."""
    done = resight("site", "list", "--server", address)
    assert done.returncode == 2
    assert "--server" in done.stderr
    assert "127.0.0.1:50051" in done.stderr
