"""The page: answers are framed as what they are, and nothing is loaded from afar."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.data.folders import read_market
from adapt.errors import DataError
from adapt.report import compare_rankings, curves, render, site_sheet
from adapt.scoring import LabelledCrops
from models.image import Preprocessing, decode


@pytest.fixture
def market_root(market: Callable[..., Path]) -> Path:
    return market()


@pytest.fixture
def labelled(market_root: Path) -> LabelledCrops:
    return LabelledCrops.read(market_root, Preprocessing(height=32, width=16))


def one_hot(persons: np.ndarray) -> np.ndarray:
    return np.eye(200, dtype=np.float32)[persons]


def test_rank_lists_follow_the_similarity_and_the_protocol(labelled: LabelledCrops) -> None:
    right = (one_hot(labelled.query.crops.persons), one_hot(labelled.gallery.crops.persons))
    wrong = (right[0], one_hot(labelled.gallery.crops.persons % 2))
    found = compare_rankings(labelled, {"good": right, "bad": wrong}, queries=5, answers=2)
    assert len(found) == 5
    for comparison in found:
        good, bad = comparison.lists
        camera = comparison.query.caption.split()[-1]
        assert [a.right for a in good.answers] == [True, True]
        assert all(camera not in a.caption for a in good.answers), "own camera is set aside"
        assert [a.caption.split()[1] for a in bad.answers] == ["0.00", "0.00"]


def test_page_is_whole_and_self_contained(labelled: LabelledCrops, market_root: Path) -> None:
    vectors = (one_hot(labelled.query.crops.persons), one_hot(labelled.gallery.crops.persons))
    page = render(
        title="a <title>",
        lead="it works",
        table=[("model", "mAP"), ("adapted", "0.500")],
        curves_svg=curves(
            [{"round": 1, "loss": 2.0}, {"round": 2, "loss": 1.0, "agreement": 0.5}],
            {"loss": ("loss",), "agreement": ("agreement",)},
        ),
        comparisons=compare_rankings(labelled, {"adapted": vectors}, queries=3, answers=4),
        sheets={"site A": site_sheet(read_market(market_root, ("train",)), people=2, each=1)},
        facts={"seed": "1"},
    )
    assert "a &lt;title&gt;" in page
    assert page.count('class="right"') == 3 * 2
    assert page.count('class="wrong"') == 3 * 2
    assert page.count("<svg") == 1
    assert page.count('<img src="data:image/jpeg;base64,') == page.count("<img ") == 3 * 5 + 1
    assert '" alt="site A"><figcaption>site A<' in page
    for far in ('src="http', 'href="http', "@import", "url(http"):
        assert far not in page


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
