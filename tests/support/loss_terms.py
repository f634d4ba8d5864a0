"""Values and weights of a step's loss terms by name."""

from __future__ import annotations

from torch import Tensor

from adapt.types import Losses


def term_values(losses: Losses) -> dict[str, Tensor]:
    """The unweighted terms."""
    return {name: term.value for name, term in losses.terms.items()}


def term_weights(losses: Losses) -> dict[str, float]:
    """The factors of the terms."""
    return {name: term.weight for name, term in losses.terms.items()}


def float_stats(losses: Losses) -> dict[str, float]:
    """The figures of a step as numbers, as the loop hands them to a method."""
    return {name: float(value) for name, value in losses.stats.items()}
