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
