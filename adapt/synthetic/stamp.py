"""The one drawing primitive: a textured, shaded, tapered piece between two points."""

from __future__ import annotations

import math
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from adapt.synthetic.textures import Image

Outline = NDArray[np.float64]
"""(n, 2) polygon: s across (-1..1, times the radius), t along (0..1)."""


def _outline(*points: tuple[float, float]) -> Outline:
    return np.array(points, np.float64)


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


@cache
def _screen_angles(columns: int) -> NDArray[np.float64]:
    """(columns,) angle of a cylinder's surface at evenly spaced screen columns, left to right."""
    return np.arcsin((np.arange(columns) + 0.5) / columns * 2 - 1)


def visible_columns(columns: int, texture_columns: int, azimuth: float) -> NDArray[np.intp]:
    """Texture columns that face the camera, left to right."""
    turn = (_screen_angles(columns) - azimuth) / (2 * math.pi) + 0.5
    return (turn * texture_columns).astype(np.intp) % texture_columns


def shading(columns: int, light: float, ambient: float) -> NDArray[np.uint16]:
    """(1, columns, 1) brightness of a cylinder, 256 = unchanged; light, ambient as in `View`."""
    facing = np.maximum(np.cos(_screen_angles(columns) - light), 0)
    lit = ambient + (1 - ambient) * facing
    return (256 * lit).astype(np.uint16)[None, :, None]


def stamp(
    canvas: Image,
    a: tuple[float, float],
    b: tuple[float, float],
    radii: tuple[float, float],
    patch: Image,
    outline: Outline,
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
