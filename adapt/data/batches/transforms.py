"""Augmentation of a whole batch at once, each image with its own draw.

Order and constants follow MMT's public training code: horizontal flip, zero padding and random
crop, normalization, random erasing (Zhong et al. 2020). Resizing happened before, once, by
`models.image`, the code that also serves. Shapes: B images, H x W pixels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from adapt.config import Augmentation
from adapt.data.batches.transfer import to_device
from models.backbones.net import IMAGENET_MEAN, IMAGENET_STD


def normalize(images: Tensor) -> Tensor:
    """Turn pixels into network input: (x / 255 - mean) / std with ImageNet's constants.

    images: (B, H, W, 3) uint8 RGB; further channels are masks and become x / 255.
    Returns (B, 3, H, W) float32, channels-last in memory; masks follow as further channels.
    """
    masks = images.shape[-1] - len(IMAGENET_MEAN)
    mean = torch.tensor(IMAGENET_MEAN + (0.0,) * masks) * 255
    std = torch.tensor(IMAGENET_STD + (1.0,) * masks) * 255
    mean, std = (to_device(each, images.device) for each in (mean, std))
    return ((images.float() - mean) / std).permute(0, 3, 1, 2)


def augment(images: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Make one random training view of each image.

    images: (B, H, W, 3) uint8 RGB, or more channels, see `normalize`: masks are moved and erased
    with their image. Returns (B, 3, H, W) float32, normalized.
    """
    images = random_flip(images, settings.flip, generator)
    images = random_crop(images, settings.pad, generator)
    return random_erase(
        normalize(images),
        probability=settings.erase,
        area=(settings.erase_area_min, settings.erase_area_max),
        aspect=settings.erase_aspect,
        generator=generator,
    )


def random_flip(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Mirror each image left-right with the given probability; (B, H, W, C) in and out."""
    flip = torch.rand(len(images), generator=generator) < probability
    return torch.where(to_device(flip, images.device)[:, None, None, None], images.flip(2), images)


def random_crop(images: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    """Pad each side with zeros and cut the original size out at random; (B, H, W, C)."""
    if pad == 0:
        return images
    count, height, width, _ = images.shape
    padded = F.pad(images, (0, 0, pad, pad, pad, pad))
    shift = torch.randint(0, 2 * pad + 1, (2, count), generator=generator)
    shift = to_device(shift, images.device)
    rows = shift[0][:, None] + torch.arange(height, device=images.device)
    columns = shift[1][:, None] + torch.arange(width, device=images.device)
    image = torch.arange(count, device=images.device)
    return padded[image[:, None, None], rows[:, :, None], columns[:, None, :]]


def random_erase(
    images: Tensor,
    *,
    probability: float,
    area: tuple[float, float],
    aspect: float,
    generator: torch.Generator,
) -> Tensor:
    """Erase one rectangle of each chosen image with the mean color (0 after normalization).

    area: least and largest share of the image; aspect: height/width is drawn log-uniformly from
    [aspect, 1/aspect]. A rectangle that does not fit is drawn again, up to ten times, as in
    torchvision. MMT's code fills with (0.485, 0.456, 0.406) AFTER normalization, which is not
    the mean color it means; 0 is.
    images: (B, 3, H, W) float32. Returns a new tensor of the same shape.
    """
    height, width = images.shape[2:]
    box = _draw_boxes(images, probability, area, aspect, generator)
    top = (box.y * (height - box.h + 1)).floor()
    left = (box.x * (width - box.w + 1)).floor()
    return _erase(images, box, top, left)


def erase_at(
    images: Tensor,
    point_B2: Tensor,
    *,
    probability: float,
    area: tuple[float, float],
    aspect: float,
    generator: torch.Generator,
) -> Tensor:
    """Erase one rectangle of each chosen image, drawn as in `random_erase`, around a given point.

    What of it lies outside the image is lost, so that the point stays its center.
    images: (B, 3, H, W) float32. point_B2: (B, 2) row and column in pixels from the top left
    corner. Returns a new tensor of the images' shape.
    """
    if point_B2.shape != (len(images), 2):
        raise ValueError(f"points {tuple(point_B2.shape)} must be ({len(images)}, 2)")
    point_B2 = point_B2.cpu()
    box = _draw_boxes(images, probability, area, aspect, generator)
    top = (point_B2[:, :1] - box.h / 2).round()
    left = (point_B2[:, 1:] - box.w / 2).round()
    return _erase(images, box, top, left)


class _Boxes(NamedTuple):
    """chosen: (B,) whether to erase at all. h, w: (B, 1) pixels. y, x: (B, 1) place in [0, 1)."""

    chosen: Tensor
    h: Tensor
    w: Tensor
    y: Tensor
    x: Tensor


def _draw_boxes(
    images: Tensor,
    probability: float,
    area: tuple[float, float],
    aspect: float,
    generator: torch.Generator,
) -> _Boxes:
    count, _, height, width = images.shape
    attempts = 10
    draw = torch.rand(4, count, attempts, generator=generator)
    size = height * width * (area[0] + (area[1] - area[0]) * draw[0])
    ratio = torch.exp(math.log(aspect) * (1 - 2 * draw[1]))
    h = (size * ratio).sqrt().round()
    w = (size / ratio).sqrt().round()
    fits = (h < height) & (w < width) & (h > 0) & (w > 0)
    chosen = (torch.rand(count, generator=generator) < probability) & fits.any(1)
    pick = fits.int().argmax(1, keepdim=True)
    return _Boxes(chosen, *(v.gather(1, pick) for v in (h, w, draw[2], draw[3])))


def _erase(images: Tensor, box: _Boxes, top: Tensor, left: Tensor) -> Tensor:
    edges = torch.stack([top, top + box.h, left, left + box.w])  # (4, B, 1)
    edges[:, ~box.chosen] = 0  # an empty rectangle
    above, below, left, right = to_device(edges, images.device)
    row, column = (torch.arange(size, device=images.device) for size in images.shape[2:])
    rows, columns = (row >= above) & (row < below), (column >= left) & (column < right)
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)
