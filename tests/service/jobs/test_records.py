from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BadAdaptationError
from service.jobs.records import MAX_OVERRIDES, MAX_SEED, METHODS, JobState, Wish


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"recipe": "mmt_small"},
        {"overrides": ("optimizer.lr=1e-4", "batch.identities=4", "options.labels=asymmetric")},
        {"seed": MAX_SEED},
    ],
)
def test_what_may_be_asked_for(wish: dict[str, Any]) -> None:
    for method in METHODS:
        Wish(method, **({"recipe": method} | wish))


@pytest.mark.parametrize(
    "wish",
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
def test_what_may_not(wish: dict[str, Any]) -> None:
    with pytest.raises(BadAdaptationError):
        Wish(**({"method": "mmt", "recipe": "mmt"} | wish))


@given(st.text())
def test_no_recipe_is_a_path(name: str) -> None:
    try:
        Wish("mmt", name)
    except BadAdaptationError:
        return
    assert not set(name) & set("./\\\0")


def test_what_is_over() -> None:
    assert {state for state in JobState if not state.over} == {JobState.PENDING, JobState.RUNNING}
