"""Rank lists: answers follow the similarity, and queries are not picked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from hypothesis import given
from hypothesis import strategies as st

from adapt.data.decoding.decode import DecodedCrops
from adapt.evaluation.scoring import LabelledCrops
from adapt.report.rankings import best_rows, compare_answers, compare_rankings, spread_queries
from adapt.types import CropSet, Sample
from models.image import Preprocessing


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


def test_a_query_without_a_match_says_so(labelled: LabelledCrops) -> None:
    samples = labelled.gallery.crops.samples
    alone = [s for s in samples if s.person != samples[0].person or s.camera == samples[0].camera]
    rows = [samples.index(sample) for sample in alone]
    gallery = DecodedCrops(
        replace(labelled.gallery.crops, samples=tuple(alone)), labelled.gallery.images[rows]
    )
    judged = LabelledCrops(labelled.query, gallery)
    vectors = one_hot(judged.query.crops.persons), one_hot(gallery.crops.persons)
    found = compare_rankings(judged, {"good": vectors}, queries=12, answers=2)
    lonely = [each for each in found if each.query.caption.endswith(", no match")]
    assert len(lonely) == 2
    for each in lonely:
        assert [answer.right for answer in each.lists[0].answers] == [False, False]


def crops(cameras: list[int], names: tuple[str, ...] = ("north", "south")) -> DecodedCrops:
    """Crops without people, seen by cameras of these codes."""
    samples = tuple(Sample(Path(f"{i}.png"), f"{i}.png", c) for i, c in enumerate(cameras))
    images = np.zeros((len(cameras), 32, 16, 3), np.uint8)
    return DecodedCrops(CropSet(Path("site"), samples, names), images)


def test_answers_come_from_other_cameras_best_first() -> None:
    """By hand: the only query of each camera, three answers in the other."""
    angles = np.deg2rad([0, 0, 10, 50, 30])
    features = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    data = crops([0, 0, 1, 1, 1])
    found = compare_answers(data, {"after": features}, queries=5, answers=3, seed=3)
    assert len(found) == 5
    for comparison in found:
        (answered,) = comparison.lists
        captions = [answer.caption for answer in answered.answers]
        if comparison.query.caption == "query north":
            assert captions == ["south 0.98", "south 0.87", "south 0.64"]
        else:
            assert all(caption.startswith("north") for caption in captions)
        assert all(answer.right is None for answer in answered.answers)


def test_of_one_camera_all_other_crops_may_answer() -> None:
    features = np.eye(4, dtype=np.float32)
    found = compare_answers(
        crops([0] * 4, ("all",)), {"after": features}, queries=9, answers=9, seed=0
    )
    assert [len(c.lists[0].answers) for c in found] == [3] * 4


def test_models_answer_to_the_same_queries() -> None:
    features = np.eye(6, dtype=np.float32)
    models = {"before": features, "after": features[::-1].copy()}
    for comparison in compare_answers(crops([0, 1] * 3), models, queries=4, answers=2, seed=1):
        assert [each.model for each in comparison.lists] == ["before", "after"]


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=30),
    st.integers(1, 12),
    st.integers(0, 9),
)
def test_queries_are_spread_over_the_cameras(codes: list[int], count: int, seed: int) -> None:
    cameras = np.array(codes)
    rows = spread_queries(cameras, count, seed)
    assert len(set(rows)) == len(rows) == min(count, len(codes))
    assert rows == spread_queries(cameras, count, seed)
    drawn = {code: int((cameras[rows] == code).sum()) for code in set(codes)}
    min_drawn = min(drawn.values())
    for code, number in drawn.items():  # a camera has one more than another, or all it can give
        assert number <= min_drawn + 1 or any(
            drawn[other] == codes.count(other) for other in drawn if drawn[other] == min_drawn
        ), code


def test_queries_of_a_seed_are_pinned() -> None:
    assert spread_queries(np.array([0, 0, 0, 1, 1, 2]), 4, seed=0) == [5, 0, 4, 1]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=20), st.integers(0, 25), st.data())
def test_best_rows_are_those_of_a_plain_sort(
    scores: list[int], count: int, data: st.DataObject
) -> None:
    allowed = data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    slow = sorted((i for i in range(len(scores)) if allowed[i]), key=lambda i: (-scores[i], i))
    found = best_rows(np.array(scores, np.float32), np.array(allowed), count)
    assert found == slow[:count]
