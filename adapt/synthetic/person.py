"""A walking figure of tapered, textured limbs, drawn back to front.

Person coordinates: x to the person's own +x side, y up from the ground, z forward; the person is
one unit tall. Camera coordinates: x right, y up, z toward the camera.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapt.synthetic.stamp import (
    BOX_OUTLINE,
    CONE_OUTLINE,
    LIMB_OUTLINE,
    ROUND_OUTLINE,
    TORSO_OUTLINE,
    Outline,
    shading,
    stamp,
    visible_columns,
)
from adapt.synthetic.textures import Image, Textures, weave
from adapt.synthetic.wardrobe import Appearance

BUILD = {"slim": 0.84, "medium": 1.0, "broad": 1.24}


@dataclass(frozen=True, slots=True)
class Figure:
    """A person ready to be drawn."""

    look: Appearance
    textures: Textures

    @classmethod
    def of(cls, look: Appearance) -> Figure:
        """The figure of an appearance."""
        return cls(look, weave(look))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """How the person stands in one image.

    azimuth: radians the person is turned; 0 faces the camera, pi shows the back.
    phase: radians of the gait cycle. stride: 0 (stands) to 1 (long steps).
    """

    azimuth: float
    phase: float
    stride: float


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Where the person lands in the image and how light falls on it.

    top, bottom: rows of the highest and lowest point; center: column of the body's axis (pixels).
    pitch: radians the camera looks down. perspective: growth per unit of nearness.
    light: radians, screen angle the light comes from (0 = from the camera, + = from the right).
    ambient: 0 (hard shadows) to 1 (flat light).
    """

    top: float
    bottom: float
    center: float
    pitch: float
    perspective: float
    light: float
    ambient: float


@dataclass(frozen=True, slots=True)
class _Part:
    """One textured piece from joint `a` to joint `b` (indices), radii in body units."""

    a: int
    b: int
    radius_a: float
    radius_b: float
    texture: Image
    outline: Outline
    turn: float
    """Radians the texture is turned against the body (a head looking aside)."""
    lift: float
    """Added to the depth when parts are sorted: cloth lies over what it covers."""


class _Body:
    """Collects joints and parts of one person in one pose."""

    def __init__(self, figure: Figure, pose: Pose) -> None:
        self.joints: list[tuple[float, float, float]] = []
        self.parts: list[_Part] = []
        self.look = figure.look
        self.cloth = figure.textures
        self.wide = BUILD[figure.look.build]
        self.facing = pose.azimuth
        self.swing = pose.stride * math.sin(pose.phase)
        self.lift = pose.stride * math.cos(pose.phase)
        self._lower()
        self._upper()
        self._head()
        self._bag()

    def joint(self, x: float, y: float, z: float) -> int:
        self.joints.append((x, y, z))
        return len(self.joints) - 1

    def part(
        self,
        a: int,
        b: int,
        radii: tuple[float, float],
        texture: Image,
        outline: Outline = LIMB_OUTLINE,
        *,
        turn: float = 0.0,
        lift: float = 0.0,
    ) -> None:
        self.parts.append(_Part(a, b, *radii, texture, outline, turn, lift))

    def flat(self, width: float, depth: float) -> float:
        """Half-width on screen of an elliptic body of half-axes width and depth."""
        return math.hypot(width * math.cos(self.facing), depth * math.sin(self.facing))

    def _lower(self) -> None:
        slack = {"trousers": 1.15, "slim": 0.85}.get(self.look.lower, 1.0)
        bare = self.look.lower in ("shorts", "skirt")
        thick = self.wide**0.7
        reach = 0.0
        for side in (-1, 1):
            angle = 0.42 * self.swing * side
            bend = 0.45 * max(0.0, -self.lift * side) + 0.06
            hip = self.joint(0.052 * side * thick, 0.50, 0)
            knee_z, knee_y = 0.23 * math.sin(angle), 0.50 - 0.23 * math.cos(angle)
            knee = self.joint(0.052 * side * thick, knee_y, knee_z)
            shin = angle - bend
            ankle_z, ankle_y = knee_z + 0.23 * math.sin(shin), knee_y - 0.23 * math.cos(shin)
            ankle = self.joint(0.050 * side * thick, ankle_y, ankle_z)
            heel = self.joint(0.050 * side * thick, ankle_y - 0.015, ankle_z - 0.02)
            toe = self.joint(0.060 * side * thick, ankle_y - 0.030, ankle_z + 0.09)
            calf = (0.040, 0.026) if bare else (0.046 * slack, 0.040 * slack)
            self.part(knee, ankle, (calf[0] * thick, calf[1] * thick), self.cloth.shin)
            thigh = (0.068 * thick * slack, 0.047 * thick * slack)
            self.part(hip, knee, thigh, self.cloth.thigh, lift=0.01)
            self.part(heel, toe, (0.028, 0.024), self.cloth.shoe, lift=-0.01)
            reach = max(reach, abs(knee_z))
        long = {"thigh": 0.34, "knee": 0.24}.get(self.look.hem)
        if long is None and self.look.lower in ("skirt", "longskirt"):
            long = 0.30 if self.look.lower == "skirt" else 0.12
        if long is not None:
            top, bottom = self.joint(0, 0.53, 0), self.joint(0, long, 0)
            drop = (0.53 - long) / 0.25
            waist = self.flat(0.105 * thick, 0.075 * thick)
            hem = self.flat(0.125 * thick, 0.085 * thick) + drop * 0.35 * reach
            self.part(top, bottom, (waist, hem), self.cloth.skirt, CONE_OUTLINE, lift=0.12)

    def _upper(self) -> None:
        bulk = {"jacket": 1.1, "coat": 1.12, "open": 1.08, "jumper": 1.04}.get(self.look.top, 1.0)
        wide = self.wide * bulk
        neck, waist = self.joint(0, 0.835, 0), self.joint(0, 0.48, 0)
        shoulders = self.flat(0.122 * wide, 0.080 * wide)
        hips = self.flat(0.108 * wide, 0.078 * wide)
        self.part(neck, waist, (shoulders, hips), self.cloth.torso, TORSO_OUTLINE, lift=0.13)
        slack = bulk * self.wide**0.5
        for side in (-1, 1):
            angle = -0.55 * self.swing * side
            out = 0.112 * wide
            shoulder = self.joint(out * side, 0.79, 0)
            elbow_z, elbow_y = 0.165 * math.sin(angle), 0.79 - 0.165 * math.cos(angle)
            elbow = self.joint((out + 0.022) * side, elbow_y, elbow_z)
            bend = angle + 0.25 + 0.3 * max(0.0, angle)
            wrist_z = elbow_z + 0.14 * math.sin(bend)
            wrist_y = elbow_y - 0.14 * math.cos(bend)
            wrist = self.joint((out + 0.020) * side, wrist_y, wrist_z)
            hand_z, hand_y = wrist_z + 0.04 * math.sin(bend), wrist_y - 0.04 * math.cos(bend)
            hand = self.joint((out + 0.018) * side, hand_y, hand_z)
            bare = 0.85 if self.look.sleeve == "short" else 1.0
            lift = 0.14 - 0.04 * abs(math.sin(self.facing))
            self.part(wrist, hand, (0.020, 0.022), self.cloth.skin, ROUND_OUTLINE, lift=lift)
            thin = slack * bare
            self.part(elbow, wrist, (0.033 * thin, 0.027 * thin), self.cloth.forearm, lift=lift)
            self.part(shoulder, elbow, (0.042 * slack, 0.035 * slack), self.cloth.sleeve, lift=lift)
            if self.look.bag == "handbag" and side == (1 if self.look.bag_side == "left" else -1):
                self._handbag(hand)

    def _handbag(self, hand: int) -> None:
        x, y, z = self.joints[hand]
        top, bottom = self.joint(x * 1.06, y + 0.01, z), self.joint(x * 1.06, y - 0.15, z)
        half = self.flat(0.045, 0.095)
        self.part(top, bottom, (half, half * 1.15), self.cloth.bag, BOX_OUTLINE, lift=0.16)

    def _head(self) -> None:
        look, cloth = self.look, self.cloth
        base, chin, crown = self.joint(0, 0.83, 0), self.joint(0, 0.862, 0.012), self.joint(0, 1, 0)
        self.part(chin, base, (0.038, 0.042), cloth.skin, lift=0.10)
        radius = self.flat(0.056, 0.064)
        self.part(crown, chin, (radius, radius), cloth.head, ROUND_OUTLINE, lift=0.16)
        if look.hat == "hood":
            top, back = self.joint(0, 1.0, -0.02), self.joint(0, 0.85, -0.035)
            self.part(top, back, (0.062, 0.085), cloth.torso[:20, :48], ROUND_OUTLINE, lift=0.05)
        elif look.hair == "long":
            top, back = self.joint(0, 0.97, -0.03), self.joint(0, 0.74, -0.075)
            self.part(top, back, (0.055, 0.066), cloth.hair, lift=0.11)
        elif look.hair == "bob":
            top, back = self.joint(0, 0.98, -0.01), self.joint(0, 0.845, -0.02)
            self.part(top, back, (0.066, 0.074), cloth.hair, lift=0.10)
        elif look.hair == "ponytail":
            top, back = self.joint(0, 0.955, -0.07), self.joint(0, 0.80, -0.10)
            self.part(top, back, (0.026, 0.016), cloth.hair, lift=0.17)
        elif look.hair == "bun" and look.hat == "none":
            top, back = self.joint(0, 1.03, -0.035), self.joint(0, 0.97, -0.045)
            self.part(top, back, (0.032, 0.032), cloth.hair, ROUND_OUTLINE, lift=0.10)
        if look.scarf != "none":
            top, low = self.joint(0, 0.875, 0), self.joint(0, 0.805, 0)
            half = self.flat(0.070, 0.066)
            self.part(top, low, (half, half * 1.1), cloth.scarf, lift=0.165)
            end = self.joint(0.035, 0.82, 0.075), self.joint(0.045, 0.66, 0.085)
            self.part(*end, (0.022, 0.026), cloth.scarf, lift=0.10)

    def _bag(self) -> None:
        if self.look.bag == "backpack":
            far = -0.085 * self.wide - 0.05
            top, bottom = self.joint(0, 0.82, far), self.joint(0, 0.56, far - 0.01)
            half = self.flat(0.098, 0.062)
            self.part(top, bottom, (half * 0.92, half), self.cloth.bag, BOX_OUTLINE,
                      turn=math.pi, lift=0.13)  # fmt: skip
        elif self.look.bag == "crossbody":
            side = (1 if self.look.bag_side == "left" else -1) * 0.125 * self.wide
            top, bottom = self.joint(side, 0.53, -0.02), self.joint(side * 1.05, 0.39, -0.02)
            half = self.flat(0.040, 0.085)
            self.part(top, bottom, (half, half), self.cloth.bag, BOX_OUTLINE, lift=0.18)


def draw_person(canvas: Image, figure: Figure, pose: Pose, view: View) -> None:
    """Draws one person into `canvas` (H, W, 3) uint8 RGB, in place; parts outside are clipped."""
    body = _Body(figure, pose)
    joint = np.array(body.joints)
    cos, sin = math.cos(pose.azimuth), math.sin(pose.azimuth)
    x, z = joint[:, 0] * cos + joint[:, 2] * sin, joint[:, 2] * cos - joint[:, 0] * sin
    near = z * math.cos(view.pitch) + joint[:, 1] * math.sin(view.pitch)
    up = joint[:, 1] * math.cos(view.pitch) - z * math.sin(view.pitch)
    grow = 1 + view.perspective * near
    x, up = x * grow, up * grow
    scale = (view.bottom - view.top) / float(up.max() - up.min() + 0.02)
    column = view.center + scale * x
    row = view.top + scale * (float(up.max()) + 0.01 - up)
    shades: dict[int, NDArray[np.uint16]] = {}
    for part in sorted(body.parts, key=lambda p: (z[p.a] + z[p.b]) / 2 + p.lift):
        size = max(4, part.texture.shape[1] // 3)
        if size not in shades:
            shades[size] = shading(size, view.light, view.ambient)
        columns = visible_columns(size, part.texture.shape[1], pose.azimuth - part.turn)
        patch = (part.texture[:, columns] * shades[size] >> 8).astype(np.uint8)
        stamp(
            canvas,
            (float(column[part.a]), float(row[part.a])),
            (float(column[part.b]), float(row[part.b])),
            (
                part.radius_a * scale * float(grow[part.a]),
                part.radius_b * scale * float(grow[part.b]),
            ),
            patch,
            part.outline,
        )
