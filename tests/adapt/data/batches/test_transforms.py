"""Augmentation against slow, obvious versions of itself, and against torchvision."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.config import Augmentation  # noqa: E402
from adapt.data.batches.transforms import (  # noqa: E402
    augment,
    erase_at,
    normalize,
    random_crop,
    random_erase,
    random_flip,
)


def pixels(count: int = 6, height: int = 16, width: int = 8, seed: int = 0):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def generator(seed: int = 0):  # type: ignore[no-untyped-def]
    return torch.Generator().manual_seed(seed)


def test_normalize_by_hand() -> None:
    image = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    image[0, 0, 1] = torch.tensor([255, 0, 128])
    out = normalize(image)
    assert out.shape == (1, 3, 2, 2)
    assert out[0, :, 0, 1].tolist() == pytest.approx(
        [(1 - 0.485) / 0.229, -0.456 / 0.224, (128 / 255 - 0.406) / 0.225], rel=1e-5
    )
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_masks_are_scaled_to_one_and_colors_stay_what_they_are() -> None:
    images, masks = pixels(), pixels(seed=1)[..., :2]
    out = normalize(torch.cat([images, masks], dim=3))
    assert torch.equal(out[:, :3], normalize(images))
    torch.testing.assert_close(out[:, 3:], masks.permute(0, 3, 1, 2).float() / 255)


def test_flip_flips_each_image_or_leaves_it() -> None:
    images = pixels(64)
    out = random_flip(images, 0.5, generator())
    flipped = [torch.equal(o, i.flip(1)) for o, i in zip(out, images, strict=True)]
    kept = [torch.equal(o, i) for o, i in zip(out, images, strict=True)]
    assert all(f != k for f, k in zip(flipped, kept, strict=True))
    assert 16 < sum(flipped) < 48
    assert torch.equal(random_flip(images, 0.0, generator()), images)
    assert torch.equal(random_flip(images, 1.0, generator()), images.flip(2))


def test_crop_is_a_window_of_the_padded_image() -> None:
    images = pixels(40)
    out = random_crop(images, 3, generator())
    offsets = set()
    for image, crop in zip(images, out, strict=True):
        padded = np.pad(image.numpy(), ((3, 3), (3, 3), (0, 0)))
        hits = [
            (y, x)
            for y in range(7)
            for x in range(7)
            if np.array_equal(padded[y : y + 16, x : x + 8], crop.numpy())
        ]
        assert hits, "the crop is nowhere in the padded image"
        offsets.add(hits[0])
    assert len(offsets) > 15, "each image has its own window"
    assert random_crop(images, 0, generator()) is images


def test_erase_cuts_one_rectangle_of_the_asked_size() -> None:
    images = torch.ones(200, 3, 64, 32)
    out = random_erase(images, probability=0.5, area=(0.1, 0.3), aspect=0.3, generator=generator())
    erased = [image for image in out if (image == 0).any()]
    assert 70 < len(erased) < 130
    for image in erased:
        assert torch.equal(image[0], image[1])
        rows = (image[0] == 0).any(1).nonzero()[:, 0]
        columns = (image[0] == 0).any(0).nonzero()[:, 0]
        h, w = len(rows), len(columns)
        assert (image[0] == 0).sum() == h * w, "a rectangle"
        assert rows[-1] - rows[0] + 1 == h
        assert columns[-1] - columns[0] + 1 == w
        assert 0.08 < h * w / (64 * 32) < 0.33
        assert 0.25 < h / w < 4.0
    assert (images == 1).all(), "the input is not changed"


def test_erase_probability_one_and_zero() -> None:
    images = torch.ones(50, 3, 64, 32)
    every = random_erase(
        images, probability=1.0, area=(0.02, 0.4), aspect=0.3, generator=generator()
    )
    none = random_erase(
        images, probability=0.0, area=(0.02, 0.4), aspect=0.3, generator=generator()
    )
    assert all((image == 0).any() for image in every)
    assert torch.equal(none, images)


def test_views_differ_and_seeds_repeat() -> None:
    images, settings = pixels(4, 32, 16), Augmentation(pad=2)
    stream = generator(3)
    first, second = augment(images, settings, stream), augment(images, settings, stream)
    assert not torch.equal(first, second)
    assert torch.equal(first, augment(images, settings, generator(3)))


def test_erased_area_is_distributed_as_torchvision_does_it() -> None:
    from torchvision.transforms import v2

    from models.torchvision_compat import torchvision  # noqa: F401

    torch.manual_seed(0)
    reference = v2.RandomErasing(1.0, scale=(0.02, 0.4), ratio=(0.3, 1 / 0.3))
    image = torch.ones(3, 64, 32)
    theirs = np.array([float((reference(image)[0] == 0).float().mean()) for _ in range(600)])
    ours = random_erase(
        torch.ones(600, 3, 64, 32),
        probability=1.0,
        area=(0.02, 0.4),
        aspect=0.3,
        generator=generator(),
    )
    share = (ours[:, 0] == 0).float().mean((1, 2)).numpy()
    assert share.mean() == pytest.approx(theirs.mean(), abs=0.02)
    assert share.std() == pytest.approx(theirs.std(), abs=0.02)


def erased_box(image: torch.Tensor) -> tuple[int, int, int, int]:
    """Rows [top, bottom) and columns [left, right) that are 0; all of them, and nothing else."""
    rows = (image[0] == 0).any(1).nonzero()[:, 0].tolist()
    columns = (image[0] == 0).any(0).nonzero()[:, 0].tolist()
    box = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    assert (image == 0).sum() == 3 * (box[1] - box[0]) * (box[3] - box[2]), "a rectangle"
    return box


def test_erasing_at_a_point_by_hand() -> None:
    """Area 1/8 of 64 x 32 at aspect 1: a box of 16 x 16."""
    points = torch.tensor([[32.0, 16.0], [8.0, 24.0], [0.0, 31.0]])
    out = erase_at(
        torch.ones(3, 3, 64, 32),
        points,
        probability=1.0,
        area=(0.125, 0.125),
        aspect=1.0,
        generator=generator(),
    )
    boxes = [erased_box(image) for image in out]
    assert boxes == [(24, 40, 8, 24), (0, 16, 16, 32), (0, 8, 23, 32)]  # the last is cut off


def test_erasing_at_a_point_is_random_erasing_moved_there() -> None:
    """Same draws, same images, same sizes; each box centered on its point or cut at the border."""
    images, count = torch.ones(200, 3, 64, 32), 200
    points = torch.rand(count, 2, generator=generator(1)) * torch.tensor([64.0, 32.0])
    changes = {"probability": 0.5, "area": (0.02, 0.2), "aspect": 0.3}
    anywhere = random_erase(images, generator=generator(2), **changes)  # type: ignore[arg-type]
    there = erase_at(images, points, generator=generator(2), **changes)  # type: ignore[arg-type]
    assert (images == 1).all(), "the input is not changed"
    for free, moved, (y, x) in zip(anywhere, there, points.tolist(), strict=True):
        assert bool((free == 0).any()) == bool((moved == 0).any())
        if not (free == 0).any():
            continue
        top, bottom, left, right = erased_box(free)
        height, width = bottom - top, right - left
        first, column = round(y - height / 2), round(x - width / 2)
        expected = (max(first, 0), min(first + height, 64), max(column, 0), min(column + width, 32))
        assert erased_box(moved) == expected


def test_erasing_is_pinned() -> None:
    """Boxes of a seed: another order of draws would change every run."""
    images = torch.ones(4, 3, 64, 32)
    free = random_erase(
        images, probability=1.0, area=(0.02, 0.4), aspect=0.3, generator=generator()
    )
    assert [erased_box(image) for image in free] == [
        (1, 22, 9, 29),
        (26, 52, 8, 20),
        (32, 63, 14, 32),
        (16, 26, 0, 27),
    ]
    at = erase_at(
        images,
        torch.tensor([[32.0, 16.0]]).expand(4, 2),
        probability=1.0,
        area=(0.02, 0.2),
        aspect=0.3,
        generator=generator(),
    )
    assert [erased_box(image) for image in at] == [
        (24, 39, 9, 23),
        (22, 41, 12, 21),
        (21, 43, 10, 23),
        (28, 36, 6, 26),
    ]


def test_points_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \(2, 2\)"):
        erase_at(
            torch.ones(2, 3, 8, 8),
            torch.zeros(3, 2),
            probability=1.0,
            area=(0.1, 0.2),
            aspect=0.5,
            generator=generator(),
        )
