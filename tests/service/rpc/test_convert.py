from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadImageError, OverloadedError, call_errors
from service.rpc import convert
from service.types import ModelInfo, NewSighting, Sighting, SightingFilter, Site

T0 = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


def test_a_status_carries_code_reason_metadata_and_message() -> None:
    status = convert.status(BadImageError("send it again", metadata={"problem": "IMAGE_EMPTY"}))
    assert (status.code, status.message) == (3, "send it again")
    (detail,) = status.details
    info = error_details_pb2.ErrorInfo()
    assert detail.Unpack(info)
    assert (info.domain, info.reason) == ("resight", "BAD_IMAGE")
    assert dict(info.metadata) == {"problem": "IMAGE_EMPTY"}


def test_a_status_says_when_to_retry() -> None:
    status = convert.status(OverloadedError("busy", retry_after_s=1.25))
    retry = error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 1250


def test_every_error_has_the_grpc_code_of_its_name_and_number() -> None:
    for kind in call_errors().values():
        assert grpc.StatusCode[kind.code.name].value[0] == convert.status(kind("m")).code


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59), timezones=st.just(UTC)))
def test_times_survive_both_conversions(moment: datetime) -> None:
    assert convert.moment(convert.timestamp(moment)) == moment


def test_times_of_other_zones_and_finer_digits() -> None:
    elsewhere = T0.astimezone(timezone(timedelta(hours=-7)))
    assert convert.moment(convert.timestamp(elsewhere)) == T0
    assert convert.moment(Timestamp(seconds=0, nanos=1_999)) == datetime(
        1970, 1, 1, 0, 0, 0, 1, UTC
    )


@pytest.mark.parametrize(
    "fields",
    [{"seconds": 253402300800}, {"seconds": -62135596801}, {"nanos": -1}, {"nanos": 10**9}],
)
def test_times_out_of_range(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be in"):
        convert.moment(Timestamp(**fields))


@pytest.mark.parametrize("ready", [True, False])
def test_a_site_survive_both_conversions(ready: bool) -> None:
    site = Site("lobby", "m@1", 7, T0, ready)
    assert convert.site_from_wire(convert.site_to_wire(site)) == site


def test_a_model_survive_both_conversions() -> None:
    model = ModelInfo("m", "1.2", "f" * 64, 256, 128, 64, "resnet18", "mmt", "cuda")
    assert convert.model_from_wire(convert.model_to_wire(model)) == model


def test_a_sighting_survive_both_conversions() -> None:
    sighting = Sighting(
        "s", "c1", T0, "t", "p", {"a": "b"}, T0 + timedelta(seconds=1), crop_kept=True
    )
    message = convert.sighting_to_wire("lobby", sighting)
    assert message.name == "sites/lobby/sightings/s"
    assert convert.sighting_from_wire(message) == sighting


@pytest.mark.parametrize("changes", [{}, {"time": None}, {"id": "", "track": "", "person": ""}])
def test_an_item_survive_both_conversions(changes: dict[str, Any]) -> None:
    fields: dict[str, Any] = {
        "image": b"\0\xff",
        "camera": "c1",
        "id": "i",
        "time": T0,
        "track": "t",
        "person": "p",
        "attributes": {"k": "v"},
    }
    new = NewSighting(**(fields | changes))
    assert convert.item_from_wire(convert.item_to_wire(new)) == new


@pytest.mark.parametrize(
    "wanted",
    [
        SightingFilter(),
        SightingFilter(("a",), ("b", "c"), T0, T0 + timedelta(days=1), ("p",), ("t",)),
    ],
)
def test_a_filter_survive_both_conversions(wanted: SightingFilter) -> None:
    assert convert.filter_from_wire(convert.filter_to_wire(wanted)) == wanted
