"""Cloth, skin and hair as images, unrolled around the body part they cover.

A texture's rows go down the part, its columns once around it: column 0 is the back, the middle
column the front, three quarters the person's own +x side. What is printed on the chest is
therefore hidden from behind without a further rule.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from adapt.synthetic.wardrobe import HAIR, PALETTE, SKIN, Appearance, Color

Image = NDArray[np.uint8]
"""(H, W, 3) uint8 RGB."""

TORSO = (72, 160)
LIMB = (32, 48)
HEAD = (32, 64)
BAG = (32, 48)


@dataclass(frozen=True, slots=True)
class Textures:
    """The textures of one person, (rows, columns, 3) uint8 RGB each."""

    torso: Image
    skirt: Image
    sleeve: Image
    forearm: Image
    thigh: Image
    shin: Image
    shoe: Image
    skin: Image
    head: Image
    hair: Image
    scarf: Image
    bag: Image


def _plain(size: tuple[int, int], color: Color) -> Image:
    return np.full((*size, 3), color, np.uint8)


def _shade(color: Color, factor: float) -> Color:
    r, g, b = (min(255, int(c * factor)) for c in color)
    return r, g, b


def _pattern(image: Image, kind: str, accent: Color) -> None:
    """Draws an all-over pattern in place; equal on every texture of a garment."""
    h, w = image.shape[:2]
    if kind == "hoops":
        for y in range(4, h, 12):
            image[y : y + 5] = accent
    elif kind == "pinstripes":
        for x in range(0, w, 8):
            image[:, x : x + 3] = accent
    elif kind == "checks":
        for y in range(0, h, 14):
            image[y : y + 6] = (image[y : y + 6].astype(np.uint16) + accent) // 2
        for x in range(0, w, 16):
            image[:, x : x + 6] = (image[:, x : x + 6].astype(np.uint16) + accent) // 2
    elif kind == "dots":
        for row, y in enumerate(range(5, h, 11)):
            for x in range(4 + 6 * (row % 2), w, 12):
                cv2.circle(image, (x, y), 3, accent, -1)
    elif kind == "yoke":
        image[: int(h * 0.32)] = accent
    elif kind == "band":
        image[int(h * 0.34) : int(h * 0.52)] = accent
    elif kind == "base":
        image[int(h * 0.62) :] = accent
    elif kind == "reflective":
        for y in (int(h * 0.42), int(h * 0.72)):
            image[y : y + 7] = accent


def _print(image: Image, kind: str, center: int, accent: Color) -> None:
    """Draws a print around column `center` in place."""
    y = int(image.shape[0] * 0.36)
    if kind == "logo":
        cv2.rectangle(image, (center + 8, y - 8), (center + 17, y), accent, -1)
    elif kind == "disc":
        cv2.circle(image, (center, y), 13, accent, -1)
    elif kind == "ring":
        cv2.circle(image, (center, y), 12, accent, 5)
    elif kind == "text":
        for line, half in enumerate((20, 14)):
            top = y - 8 + 12 * line
            cv2.rectangle(image, (center - half, top), (center + half, top + 6), accent, -1)
    elif kind == "square":
        cv2.rectangle(image, (center - 15, y - 12), (center + 15, y + 16), accent, -1)
    elif kind == "triangle":
        points = np.array([(center - 17, y + 14), (center + 17, y + 14), (center, y - 14)])
        cv2.fillConvexPoly(image, points.astype(np.int32), accent)
    elif kind == "cross":
        cv2.rectangle(image, (center - 4, y - 14), (center + 4, y + 16), accent, -1)
        cv2.rectangle(image, (center - 15, y - 4), (center + 15, y + 4), accent, -1)


def _strap(image: Image, bag: str, side: str, color: Color) -> None:
    """Straps of a backpack (front) or of a bag worn across (front and back)."""
    h, w = image.shape[:2]
    front = w // 2
    if bag == "backpack":
        for x in (front - 22, front + 22):
            cv2.line(image, (x, 0), (x, int(h * 0.75)), color, 6)
    elif bag == "crossbody":
        sign = 1 if side == "left" else -1
        cv2.line(image, (front - sign * 26, 0), (front + sign * 34, h), color, 5)
        for turn in (0, w):
            cv2.line(image, (turn + sign * 26, 0), (turn - sign * 34, h), color, 5)


def _torso(look: Appearance) -> Image:
    base, accent = PALETTE[look.top_color], PALETTE[look.accent]
    image = _plain(TORSO, base)
    h, w = TORSO
    front = w // 2
    _pattern(image, look.pattern, accent)
    _print(image, look.front, front, accent)
    rolled = np.ascontiguousarray(np.roll(image, front, axis=1))
    _print(rolled, look.back, front, accent)
    image = np.ascontiguousarray(np.roll(rolled, front, axis=1))
    if look.top == "open":
        opening = np.array([(front - 7, 0), (front + 7, 0), (front + 17, h), (front - 17, h)])
        cv2.fillConvexPoly(image, opening.astype(np.int32), accent)
    elif look.top in ("jacket", "coat"):
        cv2.line(image, (front, 0), (front, h), _shade(base, 0.55), 2)
    elif look.top == "shirt":
        cv2.fillConvexPoly(
            image,
            np.array([(front - 9, 0), (front + 9, 0), (front, 12)], np.int32),
            PALETTE["white"],
        )
    elif look.top in ("tee", "vest"):
        cv2.ellipse(image, (front, 0), (13, 7), 0, 0, 180, SKIN[look.skin], -1)
    if look.bag != "none":
        _strap(image, look.bag, look.bag_side, _shade(PALETTE[look.bag_color], 0.85))
    return image


def _sleeves(look: Appearance) -> tuple[Image, Image]:
    base, accent = PALETTE[look.top_color], PALETTE[look.accent]
    skin = SKIN[look.skin]
    upper, lower = _plain(LIMB, base), _plain(LIMB, base)
    if look.top == "vest":
        return _plain(LIMB, skin), _plain(LIMB, skin)
    if look.pattern in ("hoops", "checks", "pinstripes", "dots"):
        _pattern(upper, look.pattern, accent)
        _pattern(lower, look.pattern, accent)
    if look.sleeve == "accent":
        upper[:], lower[:] = accent, accent
    elif look.sleeve == "stripe":
        for image in (upper, lower):
            image[:, LIMB[1] // 4 - 5 : LIMB[1] // 4 + 5] = accent
            image[:, 3 * LIMB[1] // 4 - 5 : 3 * LIMB[1] // 4 + 5] = accent
    elif look.sleeve == "cuffs":
        lower[int(LIMB[0] * 0.6) :] = accent
    if look.sleeve == "short" or look.top == "tee":
        upper[int(LIMB[0] * 0.7) :] = skin
        lower[:] = skin
    return upper, lower


def _legs(look: Appearance) -> tuple[Image, Image]:
    base, accent = PALETTE[look.lower_color], PALETTE[look.accent]
    skin = SKIN[look.skin]
    thigh, shin = _plain(LIMB, base), _plain(LIMB, base)
    if look.lower_detail == "stripe":
        for image in (thigh, shin):
            for side in (LIMB[1] // 4, 3 * LIMB[1] // 4):
                image[:, side - 4 : side + 4] = PALETTE["white"]
    elif look.lower_detail == "knees":
        thigh[-7:] = _shade(base, 1.7)
        shin[:7] = _shade(base, 1.7)
    elif look.lower_detail == "cuffs":
        shin[-9:] = accent
    if look.lower in ("shorts", "skirt"):
        thigh[int(LIMB[0] * 0.85) :] = skin
        shin[:] = skin
        shin[-7:] = PALETTE["white"] if look.lower_detail == "cuffs" else skin
    return thigh, shin


def _skirt(look: Appearance) -> Image:
    """What hangs below the waist: the tail of a coat, else a skirt."""
    if look.hem != "hip":
        image = _plain(LIMB, PALETTE[look.top_color])
        if look.top == "open":
            image[:, LIMB[1] // 2 - 5 : LIMB[1] // 2 + 5] = PALETTE[look.lower_color]
        return image
    image = _plain(LIMB, PALETTE[look.lower_color])
    if look.lower_detail == "stripe":
        image[-12:-6] = PALETTE[look.accent]
    elif look.lower_detail == "knees":
        image[:, ::8] = _shade(PALETTE[look.lower_color], 0.6)
    return image


def _head(look: Appearance) -> Image:
    h, w = HEAD
    image = _plain(HEAD, SKIN[look.skin])
    front = w // 2
    hair = HAIR[look.hair_color]
    eye = int(h * 0.45)
    for x in (front - 6, front + 6):
        cv2.circle(image, (x, eye), 2, (30, 24, 24), -1)
    cv2.line(image, (front - 3, int(h * 0.76)), (front + 3, int(h * 0.76)), (130, 60, 60), 1)
    if look.hair != "bald":
        image[: int(h * 0.28)] = hair
        edge = 13 if look.hair in ("long", "bob") else 17
        end = h if look.hair in ("long", "bob") else int(h * 0.72)
        image[:end, : front - edge] = hair
        image[:end, front + edge :] = hair
    if look.hat == "cap":
        image[: int(h * 0.36)] = PALETTE[look.hat_color]
        image[int(h * 0.30) : int(h * 0.40), front - 12 : front + 12] = _shade(
            PALETTE[look.hat_color], 0.6
        )
    elif look.hat == "beanie":
        image[: int(h * 0.40)] = PALETTE[look.hat_color]
        image[int(h * 0.28) : int(h * 0.40)] = _shade(PALETTE[look.hat_color], 1.3)
    elif look.hat == "hood":
        hood = PALETTE[look.hat_color]
        image[: int(h * 0.22)] = hood
        image[:, : front - 12] = hood
        image[:, front + 12 :] = hood
    return image


def _bag(look: Appearance) -> Image:
    color = PALETTE[look.bag_color] if look.bag != "none" else PALETTE["black"]
    image = _plain(BAG, color)
    h, w = BAG
    pocket = _shade(color, 0.68) if sum(color) > 200 else _shade(color, 1.8)
    cv2.rectangle(image, (w // 2 - 8, h // 2), (w // 2 + 8, h - 5), pocket, -1)
    cv2.rectangle(image, (0, h // 2), (6, h - 5), pocket, -1)
    cv2.rectangle(image, (w - 6, h // 2), (w, h - 5), pocket, -1)
    image[:2] = pocket
    return image


def weave(look: Appearance) -> Textures:
    """Makes the textures of one person, once per person."""
    sleeve, forearm = _sleeves(look)
    thigh, shin = _legs(look)
    shoe = _plain(LIMB, PALETTE[look.shoes])
    return Textures(
        torso=_torso(look),
        skirt=_skirt(look),
        sleeve=sleeve,
        forearm=forearm,
        thigh=thigh,
        shin=shin,
        shoe=shoe,
        skin=_plain(LIMB, SKIN[look.skin]),
        head=_head(look),
        hair=_plain(LIMB, HAIR[look.hair_color]),
        scarf=_plain(LIMB, PALETTE[look.scarf] if look.scarf != "none" else SKIN[look.skin]),
        bag=_bag(look),
    )
