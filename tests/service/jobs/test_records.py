from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.job_contract import METHODS
from models.manifest import NAME_PATTERN
from service.errors import BadAdaptationError
from service.jobs.records import MAX_OVERRIDES, MAX_SEED, AdaptationSpec, JobState, model_name
from service.types import SITE_ID


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"recipe": "mmt_small"},
        {"overrides": ("optimizer.lr=1e-4", "batch.identities=4", "options.labels=asymmetric")},
        {"seed": MAX_SEED},
    ],
)
def test_valid_specs(spec: dict[str, Any]) -> None:
    for method in METHODS:
        AdaptationSpec(method, **({"recipe": method} | spec))


@pytest.mark.parametrize(
    "spec",
    [
        {"method": "source"},
        {"method": ""},
        {"recipe": ""},
        {"recipe": "../../secret"},
        {"recipe": "/etc/passwd"},
        {"recipe": "mine.toml"},
        {"overrides": ("optimizer.lr",)},
        {"overrides": ("=1",)},
        {"overrides": ("a.b=1\n[options]",)},
        {"overrides": ("a=" + "1" * 200,)},
        {"overrides": ("a=1",) * (MAX_OVERRIDES + 1)},
        {"seed": -1},
        {"seed": MAX_SEED + 1},
    ],
)
def test_invalid_specs(spec: dict[str, Any]) -> None:
    with pytest.raises(BadAdaptationError):
        AdaptationSpec(**({"method": "mmt", "recipe": "mmt"} | spec))


@given(st.text())
def test_no_recipe_is_a_path(name: str) -> None:
    try:
        AdaptationSpec("mmt", name)
    except BadAdaptationError:
        return
    assert not set(name) & set("./\\\0")


def test_what_is_over() -> None:
    assert {state for state in JobState if not state.over} == {JobState.PENDING, JobState.RUNNING}


def test_a_site_in_lower_case_names_its_models() -> None:
    for site in ("lobby", "front.door_2", "gate-20260301", "x" * 63):
        assert model_name(site) == site


def test_a_site_with_capitals_has_models_of_its_own() -> None:
    assert model_name("Lobby") == "lobby-4c97a9ef95cd"
    sites = ["lobby", "Lobby", "LOBBY", "lobby-4c97a9ef95cd", "x" * 63, "X" * 63, "X" * 62 + "x"]
    assert len({model_name(site) for site in sites}) == len(sites)


@given(st.from_regex(SITE_ID, fullmatch=True), st.data())
def test_every_site_has_models_of_a_name_that_is_its_own(site: str, data: st.DataObject) -> None:
    assert re.fullmatch(NAME_PATTERN, model_name(site))
    other = "".join(data.draw(st.sampled_from([c.lower(), c.upper()])) for c in site)
    for another in (other, model_name(site)):
        assert (model_name(another) == model_name(site)) == (another == site)
