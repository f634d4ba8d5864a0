"""A camera: where it hangs, what light it has, and what its sensor and codec do to a crop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from adapt.synthetic.textures import Image

Range = tuple[float, float]
"""Lowest and highest value, drawn uniformly."""

SPOTS = (4, 3)
"""Spots with a light of their own in a crop, down and across."""

BRIGHTEST = 4
"""Highest light a pixel can get, relative to white."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How the light of one camera changes from crop to crop: places, hours, automatic gain.

    Standard deviations, drawn anew for each crop. exposure, color, gamma, saturation: of the
    logarithm of the camera's value (color: of each gain). patches: of the logarithm of the light
    at each of a few spots of the crop, smooth in between; patch_color: the same for R, G, B alone.
    """

    exposure: float
    color: float
    gamma: float
    saturation: float
    patches: float
    patch_color: float


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
    drift: Drift


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """One camera of a site.

    pitch: radians it looks down. perspective: see `View`. heading: radians, the azimuth at which
    most people pass it (others walk the opposite way); heading_spread: standard deviation.
    light, ambient: see `View`. exposure: factor on linear intensity. gains: white balance, factors
    of R, G, B. drift: how far all of these are off in a single crop.
    saturation: 0 gray, 1 unchanged. gamma: exponent. blur: standard deviation in crop pixels.
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
    gains: tuple[float, float, float]
    saturation: float
    gamma: float
    blur: float
    resolution: float
    noise: float
    quality: int
    box_error: float
    occlusion: float
    drift: Drift


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
        gains=(1 + warmth, 1 - tint, 1 - warmth),
        saturation=within(ranges.saturation),
        gamma=within(ranges.gamma),
        blur=within(ranges.blur),
        resolution=within(ranges.resolution),
        noise=within(ranges.noise),
        quality=round(within(ranges.quality)),
        box_error=within(ranges.box_error),
        occlusion=within(ranges.occlusion),
        drift=ranges.drift,
    )


def _light(
    camera: Camera, height: int, width: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """(height, width, 3) factors on linear light: exposure, white balance and uneven light."""
    drift = camera.drift
    stops = rng.normal(0, drift.exposure) + rng.normal(0, drift.color, 3)
    spots = stops + rng.normal(0, drift.patches, (*SPOTS, 1))
    spots += rng.normal(0, drift.patch_color, (*SPOTS, 3))
    field = cv2.resize(spots, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.exp(field) * camera.exposure * camera.gains, np.float32)


def _tones(gamma: float) -> NDArray[np.uint8]:
    """(BRIGHTEST * 256,) table: light in 8-bit steps of an unlit pixel -> pixel of the sensor."""
    linear = (np.arange(BRIGHTEST * 256) / 255.0) ** 2.2
    # A soft shoulder instead of hard clipping keeps highlights distinguishable.
    rolled = np.where(linear > 0.7, 0.7 + 0.3 * np.tanh((linear - 0.7) / 0.3), linear)
    return np.asarray(rolled ** (gamma / 2.2) * 255, np.uint8)


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
    lit = image * _light(camera, image.shape[0], image.shape[1], rng) ** np.float32(1 / 2.2)
    tones = _tones(camera.gamma * math.exp(rng.normal(0, camera.drift.gamma)))
    image = tones[np.minimum(lit, len(tones) - 1).astype(np.uint16)]
    saturation = camera.saturation * math.exp(rng.normal(0, camera.drift.saturation))
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    image = cv2.addWeighted(image, saturation, gray, 1 - saturation, 0)
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(camera.noise)
    image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if small != (width, height):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(image, np.uint8)


def encode(image: Image, camera: Camera) -> bytes:
    """The crop as the camera's JPEG."""
    encoder: Callable[..., bytes] = simplejpeg.encode_jpeg
    return encoder(np.ascontiguousarray(image), quality=camera.quality, colorsubsampling="420")
