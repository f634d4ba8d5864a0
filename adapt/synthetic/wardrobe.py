"""Who walks by: the discrete attributes of a person and how a site's people are dressed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from adapt.errors import ConfigError

Color = tuple[int, int, int]
"""RGB, 0..255."""

PALETTE: Mapping[str, Color] = {
    "black": (28, 28, 32),
    "charcoal": (62, 64, 70),
    "gray": (128, 130, 134),
    "silver": (186, 188, 190),
    "white": (232, 232, 228),
    "cream": (222, 208, 178),
    "beige": (186, 160, 124),
    "brown": (102, 70, 46),
    "olive": (92, 94, 54),
    "green": (48, 124, 70),
    "teal": (32, 122, 128),
    "navy": (34, 42, 80),
    "blue": (44, 84, 172),
    "sky": (128, 176, 220),
    "purple": (104, 62, 132),
    "pink": (226, 142, 166),
    "red": (186, 40, 44),
    "wine": (100, 28, 44),
    "orange": (228, 122, 38),
    "yellow": (232, 200, 60),
    "lime": (196, 226, 52),
}
SKIN: Mapping[str, Color] = {
    "light": (228, 186, 160),
    "tan": (204, 156, 120),
    "brown": (150, 104, 76),
    "dark": (92, 62, 48),
}
HAIR: Mapping[str, Color] = {
    "black": (24, 22, 22),
    "brown": (78, 52, 36),
    "blond": (202, 168, 106),
    "ginger": (156, 78, 36),
    "gray": (158, 156, 152),
}

Weights = Mapping[str, float]
"""Value of an attribute -> relative frequency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Appearance:
    """Everything that makes one person look different from another; every field is a plain word.

    Colors are names in `PALETTE`, `SKIN` or `HAIR`; "none" where the thing is not worn. `accent`
    colors the pattern, the prints and the layer under an open jacket.
    """

    skin: str
    hair: str
    hair_color: str
    hat: str
    hat_color: str
    scarf: str
    top: str
    top_color: str
    accent: str
    pattern: str
    front: str
    back: str
    sleeve: str
    hem: str
    lower: str
    lower_color: str
    lower_detail: str
    shoes: str
    bag: str
    bag_color: str
    bag_side: str
    build: str

    def differences(self, other: Appearance) -> int:
        """Number of attributes in which two people differ."""
        return sum(getattr(self, name) != getattr(other, name) for name in self.__slots__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wardrobe:
    """How the people of a site are dressed: the frequency of every attribute's values.

    uniform: attributes that staff have in common; uniform_share: share of staff among the people.
    """

    skin: Weights
    hair: Weights
    hair_color: Weights
    hat: Weights
    hat_color: Weights
    scarf: Weights
    top: Weights
    top_color: Weights
    accent: Weights
    pattern: Weights
    front: Weights
    back: Weights
    sleeve: Weights
    hem: Weights
    lower: Weights
    lower_color: Weights
    lower_detail: Weights
    shoes: Weights
    bag: Weights
    bag_color: Weights
    build: Weights
    uniform: Mapping[str, str] = field(default_factory=dict)
    uniform_share: float = 0.0


def pick(rng: np.random.Generator, weights: Weights) -> str:
    """Draws one value with the given relative frequencies."""
    share = np.array(list(weights.values()), np.float64)
    return list(weights)[int(rng.choice(len(share), p=share / share.sum()))]


def dress(rng: np.random.Generator, wardrobe: Wardrobe) -> Appearance:
    """Draws one person; attributes of what is not worn are "none" and tell nobody apart."""
    drawn = [name for name in Wardrobe.__dataclass_fields__ if not name.startswith("uniform")]
    values = {name: pick(rng, getattr(wardrobe, name)) for name in drawn}
    if rng.random() < wardrobe.uniform_share:
        values |= wardrobe.uniform
    while values["accent"] == values["top_color"]:
        values["accent"] = pick(rng, wardrobe.accent)
    if values["hat"] == "none":
        values["hat_color"] = "none"
    if values["hat"] == "hood":
        values["hat_color"] = values["top_color"]
    if values["bag"] == "none":
        values["bag_color"] = "none"
    values["bag_side"] = "left" if rng.random() < 0.5 else "right"
    if values["bag"] in ("none", "backpack"):
        values["bag_side"] = "none"
    if values["top"] == "open":
        values["front"] = "none"
    if values["top"] not in ("coat", "open"):
        values["hem"] = "hip"
    if values["top"] == "tee" and values["sleeve"] == "plain":
        values["sleeve"] = "short"
    return Appearance(**values)


MIN_DIFFERENCES = 4
"""Attributes in which any two people of a site differ."""


def dress_crowd(
    rng: np.random.Generator, wardrobe: Wardrobe, people: int
) -> tuple[Appearance, ...]:
    """Draws people of whom any two differ in at least `MIN_DIFFERENCES` attributes.

    Raises:
        ConfigError: the wardrobe has too little variety for so many people.
    """
    crowd: list[Appearance] = []
    for _ in range(200 * people):
        if len(crowd) == people:
            break
        person = dress(rng, wardrobe)
        if all(person.differences(other) >= MIN_DIFFERENCES for other in crowd):
            crowd.append(person)
    if len(crowd) < people:
        raise ConfigError(
            f"the wardrobe gives only {len(crowd)} people who differ in {MIN_DIFFERENCES} "
            f"attributes, {people} are asked for; ask for fewer identities"
        )
    return tuple(crowd)
