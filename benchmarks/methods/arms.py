"""What is adapted and compared: the methods, plain clustering, and each paper's switches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from adapt.config import Recipe
from adapt.methods import METHODS
from adapt.recipes import load_recipe, recipe_label


@dataclass(frozen=True)
class Arm:
    """A row of a table that is trained: recipe METHOD_small, and what is changed in it.

    method: of `METHODS`, or `source` to train on true labels. folder: of its runs, less the seed.
    """

    name: str
    method: str
    folder: str
    overrides: tuple[str, ...] = ()

    def recipe(self, more: tuple[str, ...] = ()) -> tuple[Recipe, str]:
        """The recipe and its name for the record; `more` overrides come last."""
        name, overrides = f"{self.method}_small", (*self.overrides, *more)
        recipe = load_recipe(name, method=self.method, overrides=overrides)
        return recipe, recipe_label(name, overrides)


PLAIN = Arm(
    "plain clustering",
    "mmt",
    "plain",
    # The last row of the paper's table 2: one network, hard losses only, no average.
    ("options.lambda_id=0", "options.lambda_tri=0", "options.networks=1", "options.ema=0"),
)

ARMS: dict[str, Arm] = {
    "plain": PLAIN,
    **{name: Arm(name.upper(), name, name) for name in METHODS},
}
"""What `--methods` chooses from."""

SUPERVISED = Arm(
    "supervised",
    "source",
    "supervised",
    # As many steps as the methods, at their learning rate and with their augmentation.
    (
        "schedule.rounds=12",
        "schedule.iterations=20",
        "optimizer.warmup_rounds=0",
        "optimizer.milestones=[]",
        "augment.erase=0.5",
    ),
)
"""The ceiling: the source network trained on with true labels."""


def _variants(method: str, rows: Mapping[str, tuple[str, ...]]) -> tuple[Arm, ...]:
    """Rows by name; the one that changes nothing shares its run with the method's own."""
    return tuple(
        Arm(
            f"{method.upper()} {name}",
            method,
            "-".join((method, *name.replace("+", "").lower().split())) if changes else method,
            changes,
        )
        for name, changes in rows.items()
    )


def _daal(labels: str) -> tuple[str, ...]:
    return (f"options.labels={labels}", "options.attention=none", "options.domain_branch=false")


ABLATIONS: dict[str, tuple[Arm, ...]] = {
    "mmt": _variants(
        "mmt",
        {
            "full": (),
            "without EMA": ("options.ema=0",),
            "without second net": ("options.networks=1",),
            "without soft losses": ("options.lambda_id=0", "options.lambda_tri=0"),
        },
    ),
    "nrmt": _variants(
        "nrmt",
        {
            "CC": ("options.components=cc",),
            "CC +SC": ("options.components=cc+sc",),
            "CC +SC +SD": (),
        },
    ),
    "hli": _variants(
        "hli",
        {
            "base": ("options.erase=0", "options.lambda_imi=0", "options.lambda_sd=0"),
            "+ALMS": ("options.erase=0", "options.lambda_imi=0"),
            "+ALMS +AULM": ("options.lambda_imi=0",),
            "all": (),
        },
    ),
    "aml": _variants(
        "aml",
        {
            "same labels": ("options.labels=original", "options.weighted_share=0"),
            "merged": ("options.labels=merged", "options.weighted_share=0"),
            "asymmetric": ("options.weighted_share=0",),
            "asymmetric +SW": (),
        },
    ),
    "daal": _variants(
        "daal",
        {"hard": _daal("hard"), "LSR": _daal("lsr"), "soft": _daal("soft"), "soft +DAAM": ()},
    ),
}
"""Rows of each paper's ablation by its switches (docs/methods)."""

T = TypeVar("T")


def chosen(table: Mapping[str, T], names: Sequence[str]) -> list[T]:
    """Entries of some names, in the table's order; names that it lacks are ignored."""
    return [entry for name, entry in table.items() if name in names]
