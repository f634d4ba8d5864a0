"""Records that are checked when they are made cannot be changed afterwards."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
from pydantic import BaseModel

pytest.importorskip("torch", reason="adapt needs torch")

import adapt
import models
import service


def records() -> list[type[BaseModel]]:
    """Every pydantic model that a module of the three packages defines."""
    found = {}
    for package in (adapt, models, service):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if info.name.endswith("__main__"):
                continue
            for value in vars(importlib.import_module(info.name)).values():
                if isinstance(value, type) and issubclass(value, BaseModel):
                    found[f"{value.__module__}.{value.__qualname__}"] = value
    return [cls for name, cls in sorted(found.items()) if not name.startswith("pydantic")]


@pytest.mark.parametrize("record", records(), ids=lambda record: record.__qualname__)
def test_a_record_is_frozen_and_says_what_becomes_of_unknown_fields(
    record: type[BaseModel],
) -> None:
    assert record.model_config.get("frozen") is True
    assert record.model_config.get("extra") in ("forbid", "ignore")
