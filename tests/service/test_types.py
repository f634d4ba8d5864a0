from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
        {"camera": "\u200bc"},
        {"camera": "\ufeffc1"},
        {"track": "t\u2060"},
        {"person": "\u202eann"},
        {"person": "an\u00adn"},
        {"attributes": {"k\u200b": "x"}},
        {"attributes": {"é": "x", "e\u0301": "y"}},
        {"camera": "e\u0301" * 129},
        {"camera": "\u0301" * 10_000_000},
    ],
)
def test_malformed_sightings(fields: dict[str, Any]) -> None:
    with pytest.raises(BadSightingError):
        NewSighting(**({"image": b"x", "camera": "c"} | fields))


def test_an_error_about_blanks_says_what_to_do() -> None:
    with pytest.raises(BadSightingError, match="camera 'c1 ' has blanks at its ends; leave them"):
        NewSighting(image=b"x", camera="c1 ")


def test_an_error_about_a_character_that_nobody_sees_names_it() -> None:
    with pytest.raises(BadSightingError, match=r"camera '\\ufeffc1' has the character U\+FEFF"):
        NewSighting(image=b"x", camera="\ufeffc1")


@pytest.mark.parametrize("name", ["CAFÉ", "👩\u200d💻", "می\u200cروم", "\u200fא1"])
def test_case_and_characters_that_scripts_need_are_kept(name: str) -> None:
    new = NewSighting(image=b"x", camera=name, track=name, person=name, attributes={name: name})
    assert (new.camera, new.track, new.person, new.attributes) == (name, name, name, {name: name})


def test_values_of_attributes_are_free_text() -> None:
    value = " a\u00ad\u200b "
    assert NewSighting(image=b"x", camera="c", attributes={"k": value}).attributes == {"k": value}


def test_the_length_counts_in_nfc() -> None:
    assert NewSighting(image=b"x", camera="e\u0301" * 128).camera == "é" * 128
    assert SightingFilter(cameras=("e\u0301" * 128,)).cameras == ("é" * 128,)


names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=40).filter(
    lambda text: len(normalize("NFC", text)) <= 64 and not text.count("\u00ad")
)


@given(names, names, names)
def test_each_spelling_of_a_name_is_one_name_to_sightings_and_filters(
    camera: str, track: str, person: str
) -> None:
    def sighting(form: Literal["NFC", "NFD"]) -> NewSighting:
        c, t, p = (normalize(form, text) for text in (camera, track, person))
        return NewSighting(image=b"x", camera=c, track=t, person=p, attributes={t: p})

    def wanted(form: Literal["NFC", "NFD"]) -> SightingFilter:
        c, t, p = (normalize(form, text) for text in (camera, track, person))
        return SightingFilter(cameras=(c,), exclude_cameras=(c,), persons=(p,), exclude_tracks=(t,))

    new, of_it = sighting("NFD"), wanted("NFD")
    assert new == sighting("NFC") == replace(new)
    assert of_it == wanted("NFC") == replace(of_it)
    assert of_it.cameras == of_it.exclude_cameras == (new.camera,)
    assert (of_it.persons, of_it.exclude_tracks) == ((new.person,), (new.track,))


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
