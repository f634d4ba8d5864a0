"""Each number of a recipe has its bounds: the last values taken, and the first refused."""

from __future__ import annotations

import math

import pytest
from pydantic import BaseModel, ValidationError

from adapt.config import Recipe

TINY = 1e-9

BOUNDS: dict[str, tuple[tuple[object, ...], tuple[object, ...]]] = {
    "schedule.rounds": ((1,), (0,)),
    "schedule.iterations": ((1,), (0,)),
    "schedule.passes": ((0,), (-1,)),
    "batch.identities": ((2,), (1,)),
    "batch.instances": ((2,), (1,)),
    "batch.ghost": ((0,), (-1,)),
    "augment.flip": ((0, 1), (-TINY, 1 + TINY)),
    "augment.pad": ((0,), (-1,)),
    "augment.erase": ((0, 1), (-TINY, 1 + TINY)),
    "augment.erase_area_min": ((TINY, 1 - TINY), (0, 1)),
    "augment.erase_area_max": ((TINY, 1 - TINY), (0, 1)),
    "augment.erase_aspect": ((TINY, 1), (0, 1 + TINY)),
    "optimizer.lr": ((TINY,), (0,)),
    "optimizer.weight_decay": ((0,), (-TINY,)),
    "optimizer.momentum": ((0, 1 - TINY), (-TINY, 1)),
    "optimizer.warmup_rounds": ((0,), (-1,)),
    "optimizer.decay": ((TINY, 1), (0, 1 + TINY)),
    "optimizer.drops": (((TINY, 1 - TINY),), ((0,), (1,))),
    "optimizer.new_layers": ((TINY,), (0, math.inf, math.nan)),
    "clustering.k1": ((1,), (0,)),
    "clustering.k2": ((1,), (0,)),
    "clustering.radius": ((TINY, 1 - TINY), (0, 1)),
    "clustering.pairs_per_image": ((TINY,), (0, math.inf, math.nan)),
    "clustering.rho": ((TINY, 1 - TINY), (0, 1)),
    "clustering.min_samples": ((1,), (0,)),
    "clustering.min_cluster_size": ((2,), (1,)),
    "thinning.difference": ((0, 255), (-TINY, 255 + TINY)),
    "thinning.per_track": ((0,), (-1,)),
}


def sections() -> dict[str, type[BaseModel]]:
    return {
        name: field.annotation
        for name, field in Recipe.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }


def is_refused(name: str, value: object) -> bool:
    """Whether a section refuses a value for what it is; not for its neighbors'."""
    section, field = name.split(".")
    try:
        sections()[section](**{field: value})
    except ValidationError as error:
        return any(field in each["loc"] for each in error.errors())
    return False


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds(name: str) -> None:
    taken, refused = BOUNDS[name]
    assert not [value for value in taken if is_refused(name, value)]
    assert not [value for value in refused if not is_refused(name, value)]


def test_every_number_with_a_bound_is_above() -> None:
    bounded = {
        f"{name}.{field}"
        for name, section in sections().items()
        for field, info in section.model_fields.items()
        if any(bound in repr(info) for bound in ("Ge(", "Gt(", "Le(", "Lt("))
    }
    assert bounded == set(BOUNDS)
