from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest

from service.decode import Decoder
from service.errors import BadImageError
from service.metrics import Metrics
from tests.support.tiny_model import HEIGHT, PREPROCESSING, WIDTH, crop


@pytest.fixture
async def decoder(metrics: Metrics) -> AsyncIterator[Decoder]:
    decoder = Decoder(
        PREPROCESSING, max_bytes=100_000, max_pixels=500 * 500, threads=2, metrics=metrics
    )
    yield decoder
    decoder.close()


async def test_decodes_as_training_does_in_order(decoder: Decoder) -> None:
    files = [crop(seed, suffix=(".png", ".jpg", ".bmp", ".webp")[seed % 4]) for seed in range(11)]
    images = await decoder.decode(files)
    for data, image in zip(files, images, strict=True):
        assert isinstance(image, np.ndarray)
        assert image.shape == (HEIGHT, WIDTH, 3)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, PREPROCESSING.load(data))


async def test_a_bad_image_is_its_own_error_only(decoder: Decoder, metrics: Metrics) -> None:
    good, jpeg = crop(1), crop(2, suffix=".jpg")
    bad = {
        b"": "IMAGE_EMPTY",
        b"not an image at all": "IMAGE_UNSUPPORTED",
        jpeg[: -len(jpeg) // 3]: "IMAGE_DAMAGED",
        crop(3, height=1, width=1): "IMAGE_TOO_SMALL",
        crop(4, height=600, width=600): "IMAGE_TOO_LARGE",
        crop(5)[:8] + bytes(200_000): "IMAGE_TOO_LARGE",
    }
    results = await decoder.decode([item for data in bad for item in (data, good)])
    for bad_result, problem in zip(results[::2], bad.values(), strict=True):
        assert isinstance(bad_result, BadImageError)
        assert bad_result.metadata == {"problem": problem}
    for good_result in results[1::2]:
        np.testing.assert_array_equal(good_result, PREPROCESSING.load(good))
    count = metrics.registry.get_sample_value
    assert count("resight_bad_images_total", {"problem": "IMAGE_TOO_LARGE"}) == 2
    assert count("resight_bad_images_total", {"problem": "IMAGE_EMPTY"}) == 1


async def test_no_images(decoder: Decoder) -> None:
    assert await decoder.decode([]) == []
