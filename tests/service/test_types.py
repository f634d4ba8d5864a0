from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.errors import BadFilterError, BadNameError, BadSightingError
from service.types import (
    MAX_FILTER_VALUES,
    NewSighting,
    SightingFilter,
    check_sighting_id,
    check_site_id,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("site", ["a", "Lobby_1.north-2", "9" * 63])
def test_well_formed_site_ids(site: str) -> None:
    assert check_site_id(site) == site


@pytest.mark.parametrize(
    "site", ["", ".", "..", "-a", "a/b", "../x", "a b", "ä", "a\n", "x" * 64, "a\0"]
)
def test_malformed_site_ids(site: str) -> None:
    with pytest.raises(BadNameError, match="site id"):
        check_site_id(site)


@pytest.mark.parametrize("sighting", ["", "a/b", "~a", "x" * 129, "a\n"])
def test_malformed_sighting_ids(sighting: str) -> None:
    with pytest.raises(BadNameError, match="sighting id"):
        check_sighting_id(sighting)


def test_sighting_ids_may_hold_a_tilde() -> None:
    assert check_sighting_id("a~1") == "a~1"


@pytest.mark.parametrize(
    "fields",
    [
        {"camera": ""},
        {"camera": "c\x00"},
        {"camera": "c" * 129},
        {"camera": "\udc80"},
        {"track": "a\nb"},
        {"camera": " "},
        {"camera": "c1 "},
        {"camera": "\u3000c1"},
        {"track": " "},
        {"track": "\u00a04"},
        {"person": "p" * 129},
        {"time": datetime(2026, 1, 1)},
        {"attributes": {"": "x"}},
        {"attributes": {"k" * 65: "x"}},
        {"attributes": {"k": "v" * 1025}},
        {"attributes": {"k": "\x00"}},
        {"attributes": {str(i): "" for i in range(33)}},
    ],
)
def test_malformed_sightings(fields: dict[str, Any]) -> None:
    with pytest.raises(BadSightingError):
        NewSighting(**({"image": b"x", "camera": "c"} | fields))


def test_an_error_about_blanks_says_what_to_do() -> None:
    with pytest.raises(BadSightingError, match="camera 'c1 ' has blanks at its ends; leave them"):
        NewSighting(image=b"x", camera="c1 ")


def test_malformed_id_of_a_new_sighting() -> None:
    with pytest.raises(BadNameError):
        NewSighting(image=b"x", camera="c", id="a/b")


def test_cameras_may_have_spaces_and_any_script() -> None:
    new = NewSighting(image=b"x", camera="Eingang 2 入口", person="Ann\u00a0B.", time=NOW)
    assert new.camera == "Eingang 2 入口"


@pytest.mark.parametrize(
    "fields",
    [
        {"start": NOW, "end": NOW - timedelta(microseconds=1)},
        {"start": datetime(2026, 1, 1)},
        {"cameras": ("",)},
        {"exclude_tracks": ("a\x00",)},
        {"persons": ("p" * 129,)},
        {"exclude_cameras": ("c",) * (MAX_FILTER_VALUES + 1)},
    ],
)
def test_malformed_filters(fields: dict[str, Any]) -> None:
    with pytest.raises(BadFilterError):
        SightingFilter(**fields)


def test_a_filter_of_no_duration_is_well_formed() -> None:
    assert SightingFilter(start=NOW, end=NOW).start == NOW
