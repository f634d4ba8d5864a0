"""The methods by name. One paper, one file."""

from adapt.config import Recipe
from adapt.methods.aml import AML
from adapt.methods.base import Method, SiteMethod, SourceMethod
from adapt.methods.daal import DAAL
from adapt.methods.hli import HLI
from adapt.methods.mmt import MMT
from adapt.methods.nrmt import NRMT
from adapt.methods.source import Source

METHODS: dict[str, type[SiteMethod]] = {
    "aml": AML,
    "daal": DAAL,
    "hli": HLI,
    "mmt": MMT,
    "nrmt": NRMT,
}
"""What `resight adapt --method` offers. `Source` pre-trains and has no site."""


def students_of(recipe: Recipe) -> int:
    """Number of source-trained networks that an adaptation by a recipe starts from."""
    return recipe.options.students_wanted(METHODS[recipe.method].max_students)


__all__ = [
    "AML",
    "DAAL",
    "HLI",
    "METHODS",
    "MMT",
    "NRMT",
    "Method",
    "SiteMethod",
    "Source",
    "SourceMethod",
    "students_of",
]
