"""The page: answers are framed as what they are, and nothing is loaded from afar."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.report import compare_rankings, curves, render
from adapt.scoring import LabelledCrops
from models.image import Preprocessing


@pytest.fixture
def labelled(market: Callable[..., Path]) -> LabelledCrops:
    return LabelledCrops.read(market(), Preprocessing(height=32, width=16))


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


def test_page_is_whole_and_self_contained(labelled: LabelledCrops) -> None:
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
        facts={"seed": "1"},
    )
    assert "a &lt;title&gt;" in page
    assert page.count('class="right"') == 3 * 2
    assert page.count('class="wrong"') == 3 * 2
    assert page.count("<svg") == 1
    for far in ('src="http', 'href="http', "@import", "url(http"):
        assert far not in page
