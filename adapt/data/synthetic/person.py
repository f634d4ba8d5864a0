"""A walking figure of tapered, textured limbs, drawn back to front.

Person coordinates: x to the person's own +x side, y up from the ground, z forward; the person is
one unit tall. Camera coordinates: x right, y up, z towards the camera.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from adapt.data.synthetic.textures import Image, Textures, weave
from adapt.data.synthetic.wardrobe import Appearance

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

    top, bottom: rows of the highest and lowest point; centre: column of the body's axis (pixels).
    pitch: radians the camera looks down. perspective: growth per unit of nearness.
    light: radians, screen angle the light comes from (0 = from the camera, + = from the right).
    ambient: 0 (hard shadows) to 1 (flat light).
    """

    top: float
    bottom: float
    centre: float
    pitch: float
    perspective: float
    light: float
    ambient: float


def _outline(*points: tuple[float, float]) -> NDArray[np.float64]:
    return np.array(points, np.float64)


# Outlines in part coordinates: s across (-1..1, times the radius), t along (0..1).
LIMB_OUTLINE = _outline(
    (-0.5, -0.06), (0.5, -0.06), (1, 0.02), (1, 0.98), (0.5, 1.06), (-0.5, 1.06), (-1, 0.98),
    (-1, 0.02),
)  # fmt: skip
TORSO_OUTLINE = _outline(
    (-0.3, -0.05), (0.3, -0.05), (0.82, 0.03), (1, 0.13), (0.9, 0.6), (0.96, 1.0), (0, 1.04),
    (-0.96, 1.0), (-0.9, 0.6), (-1, 0.13), (-0.82, 0.03),
)  # fmt: skip
CONE_OUTLINE = _outline((-1, 0), (1, 0), (1, 1), (0.4, 1.04), (-0.4, 1.04), (-1, 1))
ROUND_OUTLINE = np.array(
    [
        (math.sin(a), 0.5 - 0.5 * math.cos(a))
        for a in np.linspace(0, 2 * math.pi, 16, endpoint=False)
    ]
)
BOX_OUTLINE = _outline(
    (-0.7, 0), (0.7, 0), (1, 0.12), (1, 0.92), (0.8, 1), (-0.8, 1), (-1, 0.92), (-1, 0.12)
)


@dataclass(frozen=True, slots=True)
class _Part:
    """One textured piece from joint `a` to joint `b` (indices), radii in body units."""

    a: int
    b: int
    radius_a: float
    radius_b: float
    texture: Image
    outline: NDArray[np.float64]
    turn: float
    """Radians the texture is turned against the body (a head looking aside)."""
    lift: float
    """Added to the depth when parts are sorted: cloth lies over what it covers."""


@cache
def _screen_angles(columns: int) -> NDArray[np.float64]:
    """(columns,) angle of a cylinder's surface at evenly spaced screen columns, left to right."""
    return np.arcsin((np.arange(columns) + 0.5) / columns * 2 - 1)


def _visible_columns(columns: int, texture_columns: int, azimuth: float) -> NDArray[np.intp]:
    """Texture columns that face the camera, left to right."""
    turn = (_screen_angles(columns) - azimuth) / (2 * math.pi) + 0.5
    return (turn * texture_columns).astype(np.intp) % texture_columns


def _shading(columns: int, view: View) -> NDArray[np.uint16]:
    """(1, columns, 1) brightness of a cylinder, 256 = unchanged."""
    facing = np.maximum(np.cos(_screen_angles(columns) - view.light), 0)
    lit = view.ambient + (1 - view.ambient) * facing
    return (256 * lit).astype(np.uint16)[None, :, None]


def _stamp(
    canvas: Image,
    a: tuple[float, float],
    b: tuple[float, float],
    radii: tuple[float, float],
    patch: Image,
    outline: NDArray[np.float64],
) -> None:
    """Draws `patch` along a-b, tapered from radius to radius, clipped by the outline."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    length = max(math.hypot(dx, dy), 1.0)
    ux, uy = (dx / length, dy / length) if math.hypot(dx, dy) > 0.5 else (0.0, 1.0)
    nx, ny = uy, -ux
    across = outline[:, 0] * (radii[0] + (radii[1] - radii[0]) * outline[:, 1].clip(0, 1))
    along = outline[:, 1] * length
    xs = a[0] + across * nx + along * ux
    ys = a[1] + across * ny + along * uy
    x0, x1 = max(int(xs.min()), 0), min(int(xs.max()) + 2, canvas.shape[1])
    y0, y1 = max(int(ys.min()), 0), min(int(ys.max()) + 2, canvas.shape[0])
    if x1 <= x0 or y1 <= y0:
        return
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    corners = np.stack([xs - x0, ys - y0], axis=1)
    cv2.fillPoly(mask, [np.rint(corners * 8).astype(np.int32)], (255,), cv2.LINE_8, 3)
    rows, columns = patch.shape[:2]
    sx, sy = columns / (2 * max(radii)), rows / length
    ox, oy = x0 - a[0], y0 - a[1]
    back = np.array(
        [
            [nx * sx, ny * sx, (ox * nx + oy * ny) * sx + columns / 2],
            [ux * sy, uy * sy, (ox * ux + oy * uy) * sy],
        ]
    )
    cloth = cv2.warpAffine(
        patch,
        back,
        (x1 - x0, y1 - y0),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    cv2.copyTo(cloth, mask, canvas[y0:y1, x0:x1])


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
        outline: NDArray[np.float64] = LIMB_OUTLINE,
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
    column = view.centre + scale * x
    row = view.top + scale * (float(up.max()) + 0.01 - up)
    shading: dict[int, NDArray[np.uint16]] = {}
    for part in sorted(body.parts, key=lambda p: (z[p.a] + z[p.b]) / 2 + p.lift):
        size = max(4, part.texture.shape[1] // 3)
        if size not in shading:
            shading[size] = _shading(size, view)
        columns = _visible_columns(size, part.texture.shape[1], pose.azimuth - part.turn)
        patch = (part.texture[:, columns] * shading[size] >> 8).astype(np.uint8)
        _stamp(
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
