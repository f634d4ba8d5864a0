"""What stands behind and in front of the people of one camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from adapt.synthetic.camera import Camera
from adapt.synthetic.person import Figure, Pose, View, draw_person
from adapt.synthetic.textures import Image
from adapt.synthetic.wardrobe import PALETTE, Color

Place = Literal["plaza", "station"]

CROPS_WIDE = 9
"""Width of a scene in crop widths."""

SECTIONS = 4
"""Walls and grounds of one scene: a camera's background is not one color."""

_GROUND: dict[Place, tuple[Color, ...]] = {
    "plaza": ((176, 168, 152), (150, 152, 146), (112, 138, 84), (188, 158, 130)),
    "station": ((122, 124, 128), (92, 96, 102), (150, 146, 138), (78, 82, 92)),
}
_WALL: dict[Place, tuple[Color, ...]] = {
    "plaza": ((198, 178, 150), (164, 120, 96), (120, 152, 112), (206, 204, 196)),
    "station": ((140, 146, 150), (96, 104, 112), (168, 164, 150), (70, 84, 98)),
}
_CLUTTER: dict[Place, tuple[str, ...]] = {
    "plaza": ("green", "olive", "red", "sky", "white", "brown", "yellow", "blue", "orange"),
    "station": ("black", "charcoal", "navy", "gray", "silver", "yellow", "wine", "teal", "brown"),
}


@dataclass(frozen=True)
class Scene:
    """The background of one camera, twice as high as a crop, and its foreground colors."""

    background: Image
    foreground: tuple[Color, ...]


def _dim(color: Color, rng: np.random.Generator, spread: float = 0.25) -> Color:
    r, g, b = (int(np.clip(c * rng.uniform(1 - spread, 1 + spread), 0, 255)) for c in color)
    return r, g, b


def _section(image: Image, horizon: int, place: Place, rng: np.random.Generator) -> None:
    """One wall and the paving before it, whose joints come closer toward the horizon."""
    h, w = image.shape[:2]
    wall = _dim(_WALL[place][int(rng.integers(len(_WALL[place])))], rng, 0.2)
    color = _dim(_GROUND[place][int(rng.integers(len(_GROUND[place])))], rng, 0.15)
    image[:] = wall
    for x in range(0, w, int(rng.uniform(40, 110))):
        cv2.line(image, (x, 0), (x, horizon), _dim(wall, rng, 0.3), 2)
    image[horizon:] = color
    joint = _dim(color, rng, 0.2)
    depth = rng.uniform(1.3, 1.8)
    y = float(rng.uniform(4, 14))
    while horizon + y < h:
        cv2.line(image, (0, horizon + int(y)), (w, horizon + int(y)), joint, 1 + int(y) // 80)
        y *= depth
    vanishing = int(rng.uniform(0, w))
    for x in range(-2 * w, 3 * w, int(rng.uniform(60, 130))):
        cv2.line(image, (vanishing + (x - vanishing) // 6, horizon), (x, h), joint, 1)


def _clutter(image: Image, horizon: int, place: Place, rng: np.random.Generator) -> None:
    """Windows, doors, posters, planters and poles in the colors that people also wear."""
    h, w = image.shape[:2]
    colors = _CLUTTER[place]
    for _ in range(int(rng.integers(22, 34))):
        color = _dim(PALETTE[colors[int(rng.integers(len(colors)))]], rng)
        x, kind = int(rng.integers(0, w)), int(rng.integers(0, 5))
        if kind == 0:  # window or poster
            high, wide = int(rng.uniform(0.1, 0.3) * h), int(rng.uniform(20, 90))
            y = int(rng.uniform(-0.1, 0.6) * horizon)
            cv2.rectangle(image, (x, y), (x + wide, y + high), color, -1)
            cv2.rectangle(image, (x, y), (x + wide, y + high), _dim(color, rng, 0.5), 3)
        elif kind == 1:  # pole
            cv2.rectangle(image, (x, 0), (x + int(rng.uniform(4, 14)), horizon + h // 6), color, -1)
        elif kind == 2 and place == "plaza":  # bush
            for _ in range(14):
                spot = (x + int(rng.normal(0, 28)), horizon + int(rng.normal(-10, 22)))
                cv2.circle(image, spot, int(rng.uniform(6, 18)), _dim(color, rng, 0.3), -1)
        elif kind == 3:  # bench, bin, crate
            y = horizon + int(rng.uniform(0, 0.3) * h)
            high, wide = int(rng.uniform(20, 60)), int(rng.uniform(20, 110))
            cv2.rectangle(image, (x, y - high), (x + wide, y), color, -1)
            cv2.line(image, (x, y - high), (x + wide, y - high), _dim(color, rng, 0.5), 3)
        else:  # a line painted on the ground
            y, wide = int(rng.uniform(max(horizon, 0), h)), int(rng.uniform(40, 160))
            cv2.line(image, (x, y), (x + wide, y + int(rng.normal(0, 12))), color, 4)


def build_scene(
    place: Place,
    camera: Camera,
    crowd: Sequence[Figure],
    height: int,
    width: int,
    rng: np.random.Generator,
) -> Scene:
    """Draws the scene of one camera; `crowd` are passers-by far behind, not identities of the site.

    Args:
        height, width: of the supersampled picture of one crop, in pixels.
    """
    h, w = height, CROPS_WIDE * width
    image = np.zeros((h, w, 3), np.uint8)
    horizon = int(h * np.clip(0.50 - 1.0 * camera.pitch + rng.uniform(-0.06, 0.06), -0.2, 0.5))
    for section in np.array_split(np.arange(w), SECTIONS):
        _section(image[:, section[0] : section[-1] + 1], max(horizon, 0), place, rng)
    _clutter(image, horizon, place, rng)
    for figure in crowd:
        tall = float(rng.uniform(0.35, 0.7)) * h
        foot = horizon + float(rng.uniform(0.25, 0.55)) * h
        pose = Pose(
            azimuth=float(rng.uniform(-np.pi, np.pi)), phase=float(rng.uniform(0, 6)), stride=0.7
        )
        view = View(
            top=foot - tall,
            bottom=foot,
            center=float(rng.uniform(0, w)),
            pitch=camera.pitch,
            perspective=camera.perspective,
            light=camera.light,
            ambient=camera.ambient,
        )
        draw_person(image, figure, pose, view)
    image = np.asarray(cv2.GaussianBlur(image, (0, 0), 1.6), np.uint8)
    cells = rng.uniform(0.82, 1.18, (4, CROPS_WIDE * 2)).astype(np.float32)
    light = cv2.resize(cells, (w, h), interpolation=cv2.INTER_CUBIC)[:, :, None]
    image = np.clip(image * light, 0, 255).astype(np.uint8)
    names = _CLUTTER[place]
    foreground = tuple(_dim(PALETTE[names[int(i)]], rng) for i in rng.integers(len(names), size=3))
    return Scene(image, foreground)


def backdrop(scene: Scene, width: int, rng: np.random.Generator) -> Image:
    """A fresh copy of a random piece of the background, `width` pixels wide."""
    x = int(rng.integers(0, scene.background.shape[1] - width))
    return np.ascontiguousarray(scene.background[:, x : x + width])


def cast_shadow(canvas: Image, center: float, foot: float, tall: float, light: float) -> None:
    """Darkens the ground at the feet, away from the light; in place."""
    length = int(tall * 0.16)
    y0, y1 = max(0, int(foot) - length // 3), min(canvas.shape[0], int(foot) + length // 3)
    x = int(center - 0.7 * length * np.sin(light))
    x0, x1 = max(0, x - length), min(canvas.shape[1], x + length)
    if y1 <= y0 or x1 <= x0:
        return
    region = canvas[y0:y1, x0:x1]
    mask = np.zeros(region.shape[:2], np.uint8)
    cv2.ellipse(mask, (x - x0, int(foot) - y0), (length, length // 4), 0, 0, 360, (1,), -1)
    cv2.copyTo(cv2.convertScaleAbs(region, alpha=0.65), mask, region)


def occlude(canvas: Image, scene: Scene, rng: np.random.Generator) -> None:
    """Puts a pole, a barrier, a bin or a counter in front of the person; in place."""
    h, w = canvas.shape[:2]
    color = scene.foreground[int(rng.integers(len(scene.foreground)))]
    edge = _dim(color, rng, 0.4)
    kind = int(rng.integers(0, 4))
    if kind == 0:
        x, wide = int(rng.uniform(0.05, 0.95) * w), int(rng.uniform(0.06, 0.16) * w)
        cv2.rectangle(canvas, (x, 0), (x + wide, h), color, -1)
        cv2.line(canvas, (x, 0), (x, h), edge, 3)
    elif kind == 1:
        y, high = int(rng.uniform(0.6, 0.85) * h), int(rng.uniform(0.03, 0.06) * h)
        cv2.rectangle(canvas, (0, y), (w, y + high), color, -1)
        cv2.rectangle(canvas, (w // 3, y), (w // 3 + 8, h), edge, -1)
    elif kind == 2:
        y, left = int(rng.uniform(0.62, 0.8) * h), rng.random() < 0.5
        wide = int(rng.uniform(0.25, 0.5) * w)
        x0, x1 = (0, wide) if left else (w - wide, w)
        cv2.rectangle(canvas, (x0, y), (x1, h), color, -1)
        cv2.line(canvas, (x0, y), (x1, y), edge, 4)
    else:
        y = int(rng.uniform(0.72, 0.88) * h)
        cv2.rectangle(canvas, (0, y), (w, h), color, -1)
        cv2.line(canvas, (0, y), (w, y), edge, 4)
