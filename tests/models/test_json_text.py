from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from models.json_text import json_text


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), np.float64("nan")])
def test_numbers_that_are_not_finite_are_null(number: float) -> None:
    value = {"a": number, "b": [1, (number, 2.5)], "c": {"d": number}}
    assert strict(json_text(value)) == {"a": None, "b": [1, [None, 2.5]], "c": {"d": None}}


def test_what_is_finite_is_written_as_before() -> None:
    value = {"a": [0.1, True, None, "\udcff"], "b": {}}
    assert json_text(value, indent=1) == json.dumps(value, indent=1)
    assert strict(json_text(value)) == value
