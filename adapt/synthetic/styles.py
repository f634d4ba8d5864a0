"""The two kinds of site: what people wear there and what its cameras are like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adapt.synthetic.camera import CameraRanges, Drift
from adapt.synthetic.scene import Place
from adapt.synthetic.wardrobe import Wardrobe

_SKIN = {"light": 4.0, "tan": 3.0, "brown": 2.0, "dark": 2.0}
_BUILD = {"slim": 1.0, "medium": 2.0, "broad": 1.0}


@dataclass(frozen=True, kw_only=True)
class Style:
    """What the sites of a kind have in common."""

    place: Place
    wardrobe: Wardrobe
    cameras: CameraRanges


SUMMER = Style(
    place="plaza",
    wardrobe=Wardrobe(
        skin=_SKIN,
        hair={"short": 4, "bald": 1, "bob": 2, "long": 3, "ponytail": 2, "bun": 1},
        hair_color={"black": 4, "brown": 4, "blond": 3, "ginger": 1, "gray": 1},
        hat={"none": 6, "cap": 2},
        hat_color={"white": 2, "red": 1, "blue": 1, "beige": 1, "black": 1},
        scarf={"none": 1},
        top={"tee": 7, "shirt": 3, "vest": 2, "open": 1, "jumper": 1},
        top_color={"white": 5, "sky": 3, "red": 2, "yellow": 2, "pink": 2, "green": 1,
                    "cream": 2, "blue": 2, "gray": 2, "orange": 1, "teal": 1, "black": 2},
        accent={"white": 3, "navy": 2, "red": 2, "yellow": 1, "green": 1, "black": 3, "blue": 1,
                "pink": 1},
        pattern={"plain": 6, "hoops": 2, "checks": 2, "pinstripes": 1, "dots": 1, "yoke": 1,
                 "band": 1, "base": 1},
        front={"none": 4, "logo": 2, "disc": 1, "ring": 1, "text": 2, "square": 1, "triangle": 1},
        back={"none": 5, "text": 1, "disc": 1, "cross": 1},
        sleeve={"plain": 3, "accent": 1, "short": 3},
        hem={"hip": 1},
        lower={"shorts": 5, "skirt": 3, "trousers": 3, "slim": 3, "longskirt": 1},
        lower_color={"blue": 4, "navy": 2, "beige": 3, "white": 2, "black": 2, "gray": 2,
                      "olive": 1, "pink": 1, "red": 1},
        lower_detail={"plain": 5, "stripe": 1, "cuffs": 2, "knees": 1},
        shoes={"white": 4, "brown": 2, "black": 2, "red": 1, "blue": 1},
        bag={"none": 4, "backpack": 2, "crossbody": 2, "handbag": 2},
        bag_color={"black": 2, "brown": 2, "red": 1, "blue": 1, "beige": 1, "green": 1,
                    "yellow": 1},
        build=_BUILD,
    ),
    cameras=CameraRanges(
        pitch=(0.02, 0.14),
        perspective=(0.05, 0.15),
        light=(-0.9, 0.9),
        ambient=(0.45, 0.7),
        exposure=(1.05, 1.30),
        warmth=(0.0, 0.06),
        tint=(-0.02, 0.02),
        saturation=(1.0, 1.15),
        gamma=(0.95, 1.05),
        blur=(0.0, 0.5),
        resolution=(0.85, 1.0),
        noise=(1.0, 3.0),
        quality=(80, 93),
        box_error=(0.025, 0.04),
        occlusion=(0.05, 0.12),
        heading_spread=(0.35, 0.6),
        drift=Drift(exposure=0.35, color=0.10, gamma=0.05, saturation=0.18, patches=0.10,
                    patch_color=0.04),
    ),
)  # fmt: skip

WINTER = Style(
    place="station",
    wardrobe=Wardrobe(
        skin=_SKIN,
        hair={"short": 4, "bald": 1, "bob": 2, "long": 3, "ponytail": 2, "bun": 1},
        hair_color={"black": 4, "brown": 4, "blond": 3, "ginger": 1, "gray": 2},
        hat={"none": 4, "beanie": 3, "hood": 2, "cap": 1},
        hat_color={"black": 2, "gray": 2, "wine": 2, "red": 1, "cream": 1, "teal": 1,
                    "yellow": 1},
        scarf={"none": 4, "red": 1, "cream": 1, "gray": 1, "teal": 1, "orange": 1},
        top={"jacket": 5, "coat": 4, "open": 3, "jumper": 2},
        top_color={"black": 6, "charcoal": 4, "navy": 5, "olive": 2, "brown": 2, "wine": 1,
                    "gray": 2, "orange": 1},
        accent={"white": 3, "silver": 2, "red": 2, "yellow": 2, "sky": 2, "lime": 1, "cream": 2,
                "pink": 1},
        pattern={"plain": 4, "reflective": 2, "yoke": 2, "band": 2, "base": 2, "checks": 2,
                 "hoops": 1},
        front={"none": 5, "logo": 3, "text": 1, "square": 1},
        back={"none": 3, "text": 2, "disc": 1, "cross": 1, "square": 1, "triangle": 1},
        sleeve={"plain": 4, "stripe": 2, "accent": 1, "cuffs": 2},
        hem={"hip": 1, "thigh": 2, "knee": 2},
        lower={"trousers": 5, "slim": 5, "longskirt": 1, "skirt": 1},
        lower_color={"black": 5, "charcoal": 3, "navy": 4, "blue": 3, "beige": 2, "gray": 2,
                      "brown": 1},
        lower_detail={"plain": 5, "stripe": 2, "cuffs": 2, "knees": 1},
        shoes={"black": 4, "brown": 3, "white": 3, "red": 1, "yellow": 1},
        bag={"none": 2, "backpack": 3, "crossbody": 2, "handbag": 2},
        bag_color={"black": 2, "brown": 2, "red": 1, "blue": 1, "gray": 1, "olive": 1,
                    "orange": 1, "cream": 1},
        build=_BUILD,
        uniform={"top": "jacket", "top_color": "navy", "accent": "lime", "pattern": "reflective",
                 "sleeve": "plain", "lower": "trousers", "lower_color": "navy"},
        uniform_share=0.1,
    ),
    cameras=CameraRanges(
        pitch=(0.44, 0.58),
        perspective=(0.20, 0.35),
        light=(-0.5, 0.5),
        ambient=(0.6, 0.9),
        exposure=(0.48, 0.70),
        warmth=(-0.32, -0.20),
        tint=(-0.06, 0.06),
        saturation=(0.42, 0.60),
        gamma=(0.75, 0.90),
        blur=(0.3, 0.7),
        resolution=(0.6, 0.85),
        noise=(3.0, 6.0),
        quality=(60, 80),
        box_error=(0.025, 0.04),
        occlusion=(0.06, 0.12),
        heading_spread=(0.45, 0.8),
        drift=Drift(exposure=0.35, color=0.10, gamma=0.05, saturation=0.18, patches=0.10,
                    patch_color=0.04),
    ),
)  # fmt: skip

STYLES: Mapping[str, Style] = {"summer": SUMMER, "winter": WINTER}
