"""Crops on a page: sizes and contact sheets."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.data.catalog.folders import read_market
from adapt.errors import DataError
from adapt.report.pictures import SHOWN_HEIGHT, crop_uri, site_sheet
from models.image import decode


@pytest.mark.parametrize(("shape", "width"), [((64, 32), 56), ((400, 1), 1)])
def test_a_crop_is_shown_at_one_height(shape: tuple[int, int], width: int) -> None:
    uri = crop_uri(np.full((*shape, 3), (200, 40, 10), np.uint8))
    file = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    if width < 8:  # smaller than what resight reads as a crop
        assert file.startswith(b"\xff\xd8")
        return
    shown = decode(file)
    assert shown.shape == (SHOWN_HEIGHT, width, 3)
    np.testing.assert_allclose(shown.mean((0, 1)), (200, 40, 10), atol=4)


def test_a_site_sheet_has_a_row_for_each_person_and_a_column_for_each_camera(
    market: Callable[..., Path],
) -> None:
    root = market("wide", persons=5, cameras=3, each=2)
    crops = read_market(root, ("train",))
    sheet = decode(site_sheet(crops, people=2, each=1))
    assert sheet.shape == (2 * 130 - 2, 3 * 66 - 2, 3)
    for row, person in enumerate((1, 5)):
        for column in range(3):
            name = f"{person:04d}_c{column + 1}s1_000000_00.png"
            image = decode((root / "bounding_box_train" / name).read_bytes())
            cell = sheet[row * 130 :, column * 66 :][:128, :64]
            np.testing.assert_allclose(cell.mean((0, 1)), image.mean((0, 1)), atol=6)
    next((root / "bounding_box_train").glob("0005_c2*")).unlink()
    assert (
        decode(site_sheet(read_market(root, ("train",)), people=9, each=2)).shape[0] == 4 * 130 - 2
    )
    with pytest.raises(DataError, match="nobody was seen 3 times"):
        site_sheet(crops, people=2, each=3)
