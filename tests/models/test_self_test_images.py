from __future__ import annotations

import hashlib

import numpy as np

from models.self_test_images import make_self_test_images


def test_pictures_are_different_structured_and_repeatable() -> None:
    images = make_self_test_images(64, 32)
    assert images.shape == (4, 64, 32, 3)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, make_self_test_images(64, 32))
    assert images.std(axis=(1, 2)).min() > 10  # no flat channel
    means = images.mean(axis=(1, 2))
    apart = np.abs(means[:, None] - means[None]).max(axis=2)[np.triu_indices(4, 1)]
    assert apart.min() > 5


def test_a_count_and_any_size() -> None:
    images = make_self_test_images(8, 9, count=7)
    assert images.shape == (7, 8, 9, 3)
    assert len({hashlib.sha256(image.tobytes()).digest() for image in images}) == 7
