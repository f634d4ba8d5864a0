"""A camera: where it hangs, what light it has, and what its sensor and codec do to a crop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from adapt.data.synthetic.textures import Image

Range = tuple[float, float]
"""Lowest and highest value, drawn uniformly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraRanges:
    """From what the cameras of a site are drawn; units as in `Camera`."""

    pitch: Range
    perspective: Range
    light: Range
    ambient: Range
    exposure: Range
    warmth: Range
    tint: Range
    saturation: Range
    gamma: Range
    blur: Range
    resolution: Range
    noise: Range
    quality: Range
    box_error: Range
    occlusion: Range
    heading_spread: Range
    exposure_jitter: float
    colour_jitter: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """One camera of a site.

    pitch: radians it looks down. perspective: see `View`. heading: radians, the azimuth at which
    most people pass it (others walk the opposite way); heading_spread: standard deviation.
    light, ambient: see `View`. exposure: factor on linear intensity; exposure_jitter: standard
    deviation of its logarithm from crop to crop; colour_jitter: that of each gain. gains: white
    balance, factors of R, G, B.
    saturation: 0 grey, 1 unchanged. gamma: exponent. blur: standard deviation in crop pixels.
    resolution: pixels across relative to the crop's size. noise: standard deviation, 8-bit steps.
    quality: JPEG 1..100. box_error: standard deviation of the detector's box in box sizes.
    occlusion: share of crops with something in front.
    """

    pitch: float
    perspective: float
    heading: float
    heading_spread: float
    light: float
    ambient: float
    exposure: float
    exposure_jitter: float
    colour_jitter: float
    gains: tuple[float, float, float]
    saturation: float
    gamma: float
    blur: float
    resolution: float
    noise: float
    quality: int
    box_error: float
    occlusion: float


def draw_camera(rng: np.random.Generator, ranges: CameraRanges, heading: float) -> Camera:
    """Draws one camera; `heading` is given so that a site's cameras see different sides."""

    def within(limits: Range) -> float:
        return float(rng.uniform(*limits))

    warmth, tint = within(ranges.warmth), within(ranges.tint)
    return Camera(
        pitch=within(ranges.pitch),
        perspective=within(ranges.perspective),
        heading=heading,
        heading_spread=within(ranges.heading_spread),
        light=within(ranges.light),
        ambient=within(ranges.ambient),
        exposure=within(ranges.exposure),
        exposure_jitter=ranges.exposure_jitter,
        colour_jitter=ranges.colour_jitter,
        gains=(1 + warmth, 1 - tint, 1 - warmth),
        saturation=within(ranges.saturation),
        gamma=within(ranges.gamma),
        blur=within(ranges.blur),
        resolution=within(ranges.resolution),
        noise=within(ranges.noise),
        quality=round(within(ranges.quality)),
        box_error=within(ranges.box_error),
        occlusion=within(ranges.occlusion),
    )


def _colour_table(camera: Camera, exposure: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(1, 256, 3) look-up table: exposure and white balance on linear light, then gamma."""
    linear = (np.arange(256) / 255.0)[None, :, None] ** 2.2
    lit = linear * exposure * np.array(camera.gains)
    # A soft shoulder instead of hard clipping keeps highlights distinguishable.
    rolled = np.where(lit > 0.7, 0.7 + 0.3 * np.tanh((lit - 0.7) / 0.3), lit)
    return np.asarray(np.clip(rolled ** (camera.gamma / 2.2), 0, 1) * 255, np.uint8)


def develop(
    picture: Image, camera: Camera, height: int, width: int, rng: np.random.Generator
) -> Image:
    """What the camera delivers of a supersampled picture: (height, width, 3) uint8 RGB."""
    small = (
        max(4, round(width * camera.resolution)),
        max(8, round(height * camera.resolution)),
    )
    image = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
    sigma = camera.blur * camera.resolution
    if sigma > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    stops = rng.normal(0, camera.exposure_jitter) + rng.normal(0, camera.colour_jitter, 3)
    exposure = camera.exposure * np.exp(stops)
    image = cv2.LUT(image, _colour_table(camera, exposure))
    if abs(camera.saturation - 1) > 0.01:
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        image = cv2.addWeighted(image, camera.saturation, grey, 1 - camera.saturation, 0)
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(camera.noise)
    image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if small != (width, height):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(image, np.uint8)


def encode(image: Image, camera: Camera) -> bytes:
    """The crop as the camera's JPEG."""
    encoder: Callable[..., bytes] = simplejpeg.encode_jpeg
    return encoder(np.ascontiguousarray(image), quality=camera.quality, colorsubsampling="420")
