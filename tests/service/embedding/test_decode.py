from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest

from service.embedding.decode import CropDecoder
from service.errors import BadImageError, ShuttingDownError
from service.operations.metrics import Metrics
from tests.support.held_preprocessing import HeldPreprocessing
from tests.support.tiny_model import HEIGHT, PREPROCESSING, WIDTH, crop


@pytest.fixture
async def decoder(metrics: Metrics) -> AsyncIterator[CropDecoder]:
    decoder = CropDecoder(
        PREPROCESSING, max_bytes=100_000, max_pixels=500 * 500, threads=2, metrics=metrics
    )
    yield decoder
    decoder.close()


async def test_decodes_as_training_does_in_order(decoder: CropDecoder) -> None:
    files = [crop(seed, suffix=(".png", ".jpg", ".bmp", ".webp")[seed % 4]) for seed in range(11)]
    images = await decoder.decode(files)
    for data, image in zip(files, images, strict=True):
        assert isinstance(image, np.ndarray)
        assert image.shape == (HEIGHT, WIDTH, 3)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, PREPROCESSING.load(data))


async def test_a_bad_image_is_its_own_error_only(decoder: CropDecoder, metrics: Metrics) -> None:
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


async def test_no_images(decoder: CropDecoder) -> None:
    assert await decoder.decode([]) == []


def held_decoder(held: HeldPreprocessing, metrics: Metrics, threads: int = 2) -> CropDecoder:
    return CropDecoder(held, max_bytes=100, max_pixels=1, threads=threads, metrics=metrics)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_calls_take_turns(metrics: Metrics) -> None:
    held = HeldPreprocessing(seconds=0.02)
    held.gate.set()
    decoder = held_decoder(held, metrics, threads=1)
    large = asyncio.create_task(decoder.decode([b"large"] * 30))
    await until(lambda: len(held.seen) > 0)
    await decoder.decode([b"small"])
    assert held.seen.index(b"small") <= 3
    assert not large.done()
    assert len(await large) == 30
    decoder.close()


async def test_a_cancelled_call_ends_with_the_images_in_hand(metrics: Metrics) -> None:
    held = HeldPreprocessing()
    decoder = held_decoder(held, metrics)
    call = asyncio.create_task(decoder.decode([b"x"] * 20))
    await until(lambda: len(held.seen) == 2)
    call.cancel()
    await asyncio.wait([call], timeout=0.05)
    assert not call.done(), "threads still work for it"
    held.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert len(held.seen) == 2
    decoder.close()


async def test_close_waits_for_the_images_in_hand_only(metrics: Metrics) -> None:
    held = HeldPreprocessing()
    decoder = held_decoder(held, metrics)
    calls = [asyncio.create_task(decoder.decode([b"x"] * 20)) for _ in range(3)]
    await until(lambda: len(held.seen) == 2)
    closing = asyncio.create_task(asyncio.to_thread(decoder.close))
    await asyncio.wait([closing], timeout=0.05)
    assert not closing.done()
    held.gate.set()
    await closing
    assert len(held.seen) == 2
    for call in calls:
        with pytest.raises(ShuttingDownError):
            await call
