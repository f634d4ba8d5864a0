from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from adapt.errors import ConfigError, DataError
from adapt.report.contact_sheet import contact_sheet


def plain(value: int, height: int = 128, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_shape_and_order() -> None:
    sheet = contact_sheet([plain(10), plain(20), plain(30)], 2)
    assert sheet.shape == (2 * 130 - 2, 2 * 66 - 2, 3)
    assert sheet.dtype == np.uint8
    assert (sheet[:128, :64] == 10).all()
    assert (sheet[:128, 66:] == 20).all()
    assert (sheet[130:, :64] == 30).all()
    assert (sheet[130:, 64:] == 255).all()
    assert (sheet[128:130] == 255).all()


def test_other_sizes_are_resized() -> None:
    sheet = contact_sheet([plain(7, 40, 90)], 1, height=32, width=16, gap=0)
    assert sheet.shape == (32, 16, 3)
    assert (sheet == 7).all()


def test_files_are_read_as_rgb(tmp_path: Path) -> None:
    red = plain(0)
    red[:, :, 0] = 200
    cv2.imwrite(str(tmp_path / "red.png"), red[:, :, ::-1])
    assert (contact_sheet([tmp_path / "red.png"], 1)[0, 0] == (200, 0, 0)).all()


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_a_file_that_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.jpg"):
        contact_sheet([path], 1)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jpg"):
        contact_sheet([tmp_path / "gone.jpg"], 1)


def test_nothing_to_show_is_an_error() -> None:
    with pytest.raises(ConfigError, match="at least one image"):
        contact_sheet([], 3)
    with pytest.raises(ConfigError, match="one column"):
        contact_sheet([plain(1)], 0)
