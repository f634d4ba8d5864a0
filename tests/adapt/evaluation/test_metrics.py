"""mAP and CMC: by hand, as properties, against references, pinned."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from adapt.errors import DataError, NonFiniteFeaturesError
from adapt.evaluation import protocols
from adapt.evaluation.metrics import RetrievalScores, evaluate_ranking
from adapt.evaluation.protocols import ProtocolName

PROTOCOLS: tuple[ProtocolName, ...] = ("market", "other-camera")
Data = dict[str, NDArray[Any]]


def at(*degrees: float) -> NDArray[np.float32]:
    """Unit vectors in the plane: the nearer the angle, the more similar."""
    angle = np.deg2rad(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def data(query: NDArray[Any], gallery: NDArray[Any], **columns: list[int]) -> Data:
    found: Data = {"query_features": query, "gallery_features": gallery}
    return found | {name: np.array(values) for name, values in columns.items()}


def score(values: Data, protocol: ProtocolName = "market") -> RetrievalScores:
    return evaluate_ranking(**values, protocol=protocol, crops=None)


def random_data(
    seed: int, queries: int = 15, gallery: int = 40, people: int = 6, *, exact: bool = True
) -> Data:
    """exact: signs of +-1/4 in 16 dimensions, whose cosines are exact and often equal."""
    rng = np.random.default_rng(seed)
    shapes = [(queries, 16), (gallery, 16)]
    features = [rng.choice([-0.25, 0.25], s) if exact else rng.normal(size=s) for s in shapes]
    return data(
        *features,
        query_ids=rng.integers(0, people, queries).tolist(),
        query_cameras=rng.integers(0, 3, queries).tolist(),
        gallery_ids=rng.integers(-1, people, gallery).tolist(),
        gallery_cameras=rng.integers(0, 3, gallery).tolist(),
    )


def reference(values: Data, protocol: ProtocolName) -> tuple[list[float], list[int]]:
    """One query and one gallery image at a time."""
    precisions, first_hits = [], []
    for feature, person, camera in zip(
        values["query_features"], values["query_ids"], values["query_cameras"], strict=True
    ):
        answers = []
        for row, (other, its_person, its_camera) in enumerate(
            zip(
                values["gallery_features"],
                values["gallery_ids"],
                values["gallery_cameras"],
                strict=True,
            )
        ):
            if its_person == -1:
                continue
            if its_camera == camera and (protocol == "other-camera" or its_person == person):
                continue
            cosine = feature @ other / np.linalg.norm(feature) / np.linalg.norm(other)
            answers.append((-cosine, row, its_person == person))
        hits, total = 0, 0.0
        for rank, (_, _, right) in enumerate(sorted(answers), start=1):
            if right:
                hits += 1
                total += hits / rank
                if hits == 1:
                    first_hits.append(rank)
        if hits:
            precisions.append(total / hits)
    return precisions, first_hits


BY_HAND = data(
    at(0, 90),
    at(1, 2, 3, 4, 5, 80, 85),
    query_ids=[7, 8],
    query_cameras=[0, 0],
    #             same camera | junk | wrong | right | wrong, camera 0 | 8 | 7
    gallery_ids=[7, -1, 0, 7, 9, 8, 7],
    gallery_cameras=[0, 1, 1, 1, 0, 2, 2],
)


def test_market_by_hand() -> None:
    # Query 7 (at 0 degrees) sees 0, 7, 9, 8, 7: matches at ranks 2 and 5. Query 8 (at 90) sees 7
    # (at 85), then 8: its match is at rank 2.
    scores = score(BY_HAND)
    np.testing.assert_allclose(scores.average_precision, [(1 / 2 + 2 / 5) / 2, 1 / 2])
    assert scores.first_hit.tolist() == [2, 2]
    assert scores.to_dict() == {
        "mAP": pytest.approx(0.475),
        "cmc1": 0.0,
        "cmc5": 1.0,
        "cmc10": 1.0,
        "queries": 2,
        "gallery": 6,
        "protocol": "market",
        "queries_asked": 2,
        "queries_without_match": 0,
        "queries_junk": 0,
        "queries_unreadable": 0,
        "queries_unknown_camera": 0,
        "gallery_junk": 1,
        "gallery_unreadable": 0,
        "gallery_unknown_camera": 0,
        "gallery_ranked_min": 5,
    }
    assert json.loads(json.dumps(scores.to_dict())) == scores.to_dict()


def test_other_camera_by_hand() -> None:
    # Without camera 0 query 7 sees 0, 7, 8, 7: matches at 2 and 4.
    scores = score(BY_HAND, "other-camera")
    np.testing.assert_allclose(scores.average_precision, [(1 / 2 + 2 / 4) / 2, 1 / 2])
    assert scores.cmc(1) == 0.0
    assert scores.cmc(2) == 1.0
    assert scores.gallery == 6


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), protocol=st.sampled_from(PROTOCOLS))
def test_equals_the_reference(seed: int, protocol: ProtocolName) -> None:
    values = random_data(seed)
    scores = score(values, protocol)
    precisions, first_hits = reference(values, protocol)
    np.testing.assert_allclose(scores.average_precision, precisions, atol=1e-12)
    assert scores.first_hit.tolist() == first_hits
    assert (scores.queries, scores.without_match) == (len(precisions), 15 - len(precisions))
    assert scores.mAP == pytest.approx(np.mean(precisions))
    for rank in (1, 5, 10):
        assert scores.cmc(rank) == pytest.approx(np.mean([hit <= rank for hit in first_hits]))


def test_equals_scikit_learn() -> None:
    values = random_data(1, exact=False)  # it has a rule of its own for equal similarities
    scores = score(values)
    unit = {
        name: values[name] / np.linalg.norm(values[name], axis=1, keepdims=True)
        for name in ("query_features", "gallery_features")
    }
    for row, precision in zip(scores.query_row, scores.average_precision, strict=True):
        right = values["gallery_ids"] == values["query_ids"][row]
        seen = values["gallery_ids"] != -1
        seen &= ~(right & (values["gallery_cameras"] == values["query_cameras"][row]))
        similarity = unit["gallery_features"] @ unit["query_features"][row]
        expected = average_precision_score(right[seen], similarity[seen])
        assert precision == pytest.approx(expected, abs=1e-12)


@settings(max_examples=25, derandomize=True)  # near ties may swap
@given(seed=st.integers(0, 2**32 - 1), protocol=st.sampled_from(PROTOCOLS))
def test_order_and_scale_do_not_matter(seed: int, protocol: ProtocolName) -> None:
    rng = np.random.default_rng(seed)
    values = random_data(seed, exact=False)
    query, gallery = rng.permutation(15), rng.permutation(40)
    other = {n: v[query if n.startswith("query") else gallery] for n, v in values.items()}
    other["gallery_features"] = other["gallery_features"] * rng.uniform(1e-3, 1e3, (40, 1))
    scores, again = score(values, protocol), score(other, protocol)
    assert again.to_dict() == pytest.approx(scores.to_dict())
    by_row = dict(zip(scores.query_row.tolist(), scores.average_precision, strict=True))
    moved = {
        int(query[r]): p for r, p in zip(again.query_row, again.average_precision, strict=True)
    }
    assert moved == pytest.approx(by_row)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_perfect_model_scores_one(seed: int) -> None:
    values = random_data(seed)
    for side in ("query", "gallery"):
        values[f"{side}_features"] = np.eye(8)[values[f"{side}_ids"] + 1]
    scores = score(values)
    assert scores.to_dict()["mAP"] == scores.cmc(1) == 1.0


def test_pinned_values() -> None:
    values = random_data(123, queries=50, gallery=200, exact=False)
    assert score(values).to_dict()["mAP"] == pytest.approx(0.136282064782, abs=1e-9)
    assert score(values, "other-camera").to_dict()["mAP"] == pytest.approx(0.187819099426, abs=1e-9)


def test_equal_similarities_rank_in_gallery_order() -> None:
    columns = {"query_ids": [1], "query_cameras": [0], "gallery_cameras": [1, 1, 1, 1]}
    late = data(at(0), at(5, 5, 5, 5), gallery_ids=[2, 2, 1, 2], **columns)
    early = data(at(0), at(5, 5, 5, 5), gallery_ids=[1, 2, 2, 2], **columns)
    assert score(late).first_hit.tolist() == [3]
    assert score(early).first_hit.tolist() == [1]


def test_distractors_count_and_junk_does_not() -> None:
    columns = {"query_ids": [3], "query_cameras": [0], "gallery_cameras": [1, 1]}
    distractor = score(data(at(0), at(1, 2), gallery_ids=[0, 3], **columns))
    junk = score(data(at(0), at(1, 2), gallery_ids=[-1, 3], **columns))
    assert (distractor.mAP, distractor.gallery) == (0.5, 2)
    assert (junk.mAP, junk.gallery) == (1.0, 1)


def test_identity_zero_is_a_person_where_queries_show_it() -> None:
    columns = {"query_ids": [0], "query_cameras": [0], "gallery_cameras": [1, 1]}
    assert score(data(at(0), at(2, 1), gallery_ids=[5, 0], **columns)).mAP == 1.0


def test_a_gallery_that_holds_the_query_itself() -> None:
    ids, cameras = [1, 1, 2, 2], [0, 1, 0, 1]
    values = data(
        at(0, 10, 90, 100),
        at(0, 10, 90, 100),
        query_ids=ids,
        query_cameras=cameras,
        gallery_ids=ids,
        gallery_cameras=cameras,
    )
    for protocol in PROTOCOLS:
        scores = score(values, protocol)
        assert (scores.mAP, scores.queries, scores.gallery) == (1.0, 4, 4)


def test_queries_without_a_match_are_skipped() -> None:
    values = data(
        at(0, 1, 2, 3),
        at(0, 1),
        query_ids=[1, 9, -1, 2],
        query_cameras=[0, 0, 0, 1],
        gallery_ids=[1, 2],
        gallery_cameras=[1, 1],
    )
    scores = score(values)  # 9 is not there, -1 is nobody, 2 only in its own camera
    assert (scores.queries, scores.without_match, scores.junk) == (1, 2, 1)
    assert (scores.rows, scores.asked) == (4, 4)
    assert scores.query_row.tolist() == [0]
    assert scores.in_words() == (
        "1 of 4 queries (2 have no match in another camera, 1 junk), 2 in gallery"
    )
    assert replace(scores, junk=0, unreadable=1, gallery_unreadable=2).in_words() == (
        "1 of 4 queries (2 have no match in another camera, 1 cannot be read), "
        "2 in gallery (2 cannot be read)"
    )
    assert scores.doubts()[0].startswith(
        "2 of 3 queries have no match in another camera, in no figure: check identities and "
        "cameras; --protocol any-camera"
    )


def many_queries(without: int) -> Data:
    """20 queries, some of people whom the gallery of 30 does not show."""
    return data(
        at(*range(20)),
        at(*range(30)),
        query_ids=[7] * (20 - without) + [8] * without,
        query_cameras=[0] * 20,
        gallery_ids=[7] * 30,
        gallery_cameras=[1] * 30,
    )


def test_a_warning_above_one_query_in_ten() -> None:
    assert score(many_queries(0)).in_words() == "20 queries, 30 in gallery"
    assert score(many_queries(2)).doubts() == []
    assert score(many_queries(2)).in_words().startswith("18 of 20 queries (2 have no match in ")
    (doubt,) = score(many_queries(3)).doubts()
    assert doubt.startswith("3 of 20 queries have no match in another camera, in no figure")


def test_cmc_that_cannot_but_be_1_is_doubted() -> None:
    columns = {"query_ids": [7, 7], "query_cameras": [0, 1]}
    values = data(
        at(0, 0),
        at(*range(9)),
        gallery_ids=[1, 2, 7, 7, 7, 3, 4, 5, 7],
        gallery_cameras=[0, 1, 0, 0, 0, 1, 1, 1, 1],
        **columns,
    )
    scores = score(values)  # 6 images for the query of camera 0, 8 for the other
    assert (scores.min_ranked, scores.first_hit.tolist()) == (6, [6, 3])
    assert scores.doubts() == [
        "a query is ranked against as few as 6 gallery images, where CMC-10 cannot but be 1: give "
        "a larger gallery"
    ]
    few = score({name: value[-3:] for name, value in values.items()}, "other-camera")
    assert few.min_ranked == 3
    assert "where CMC-5, CMC-10 cannot but be 1" in few.doubts()[-1]


def with_crops(values: Data, own: list[int], others: list[int]) -> RetrievalScores:
    return evaluate_ranking(
        **values, protocol="any-camera", crops=(np.array(own), np.array(others))
    )


def test_any_camera_sets_aside_the_query_alone() -> None:
    """By hand: one camera; the gallery is the queries, and a copy of the first of them."""
    ids = [1, 1, 2, 2, 3]
    values = data(
        at(0, 10, 3, 90, 95),
        at(0, 10, 3, 90, 95, 0),
        query_ids=ids,
        query_cameras=[4] * 5,
        gallery_ids=[*ids, 1],
        gallery_cameras=[4] * 6,
    )
    scores = with_crops(values, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 0])
    # 0: 2, 1 -> 1/2. 10: 2, 0, 0 -> (1/2 + 2/3)/2. 3: 0, 0, 10, 90 -> 1/4. 90: 95, 10, 3 -> 1/3.
    assert scores.average_precision == pytest.approx([1 / 2, 7 / 12, 1 / 4, 1 / 3])
    assert (scores.queries, scores.without_match, scores.min_ranked) == (4, 1, 4)
    assert scores.in_words() == "4 of 5 queries (1 has no other crop in the gallery), 6 in gallery"
    assert scores.doubts()[0] == (
        "1 of 5 queries has no other crop in the gallery, in no figure: check identities"
    )
    for protocol in PROTOCOLS:
        with pytest.raises(DataError, match=r"they show 1 camera; .* --protocol any-camera"):
            score(values, protocol)
    with pytest.raises(DataError, match=r"other crop in the gallery .*: each person has one crop"):
        with_crops({name: value[[1, 2]] for name, value in values.items()}, [0, 1], [0, 1])
    with pytest.raises(ValueError, match="needs the crops' codes"):
        evaluate_ranking(**values, protocol="any-camera", crops=None)
    with pytest.raises(DataError, match=r"query names \(1,\) and ids \(5,\)"):
        with_crops(values, [0], [0] * 6)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_camera_of_different_crops_is_one_market_query_from_afar(seed: int) -> None:
    """Where no gallery image is a query, its camera is as good as another one."""
    values = random_data(seed)
    afar = values | {"query_cameras": values["query_cameras"] + 10}
    scores = with_crops(values, list(range(15)), list(range(15, 55)))
    assert scores.average_precision == pytest.approx(score(afar).average_precision)
    assert scores.query_row.tolist() == score(afar).query_row.tolist()


@pytest.mark.parametrize(("protocol", "ranked"), [("market", 2), ("other-camera", 1)])
def test_an_unknown_camera_may_be_the_querys(protocol: ProtocolName, ranked: int) -> None:
    values = data(
        at(0, 1, 2),
        at(0, 1, 2),
        query_ids=[1, 1, 2],
        query_cameras=[0, -1, 0],
        gallery_ids=[1, 1, 3],
        gallery_cameras=[-1, 1, -1],
    )
    scores = score(values, protocol)
    assert scores.query_row.tolist() == [0]
    assert scores.min_ranked == ranked
    assert (scores.unknown_cameras, scores.gallery_unknown_cameras) == (1, 2)
    assert scores.doubts()[1].startswith(
        "1 query and 2 gallery images have no known camera, which may be the one asked from"
    )
    nobody = values | {"query_cameras": np.full(3, -1), "gallery_cameras": np.full(3, -1)}
    with pytest.raises(DataError, match=r"no camera is known; .* --protocol any-camera"):
        score(nobody, protocol)


@settings(max_examples=40)
@given(
    queries=st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 2)), min_size=1, max_size=9),
    gallery=st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 2)), min_size=1, max_size=9),
    protocol=st.sampled_from(PROTOCOLS),
)
def test_every_query_and_image_is_counted(
    queries: list[tuple[int, int]], gallery: list[tuple[int, int]], protocol: ProtocolName
) -> None:
    values = data(
        at(*range(len(queries))),
        at(*range(len(gallery))),
        query_ids=[person for person, _ in queries],
        query_cameras=[camera for _, camera in queries],
        gallery_ids=[person for person, _ in gallery],
        gallery_cameras=[camera for _, camera in gallery],
    )
    answered = sum(
        any(
            person == its >= 0 and (camera != seen_by) and -1 not in (camera, seen_by)
            for its, seen_by in gallery
        )
        for person, camera in queries
    )
    if not answered:
        with pytest.raises(DataError):
            score(values, protocol)
        return
    told = score(values, protocol).to_dict()
    assert told["queries"] == answered
    assert told["queries_junk"] == sum(person == -1 for person, _ in queries)
    assert told["gallery_junk"] == sum(person == -1 for person, _ in gallery)
    left_out = ("queries_without_match", "queries_junk", "queries_unreadable")
    assert told["queries_asked"] == answered + sum(int(told[name]) for name in left_out)
    assert told["queries_asked"] == len(queries)
    assert int(told["gallery"]) + int(told["gallery_junk"]) == len(gallery)


@pytest.mark.slow
def test_more_queries_than_one_block_holds() -> None:
    values = random_data(2, queries=30, gallery=300_000)
    assert protocols.BLOCK_ENTRIES < 30 * 300_000
    scores = score(values)
    for row in (0, 12, 13, 14, 29):
        single = {n: v[row : row + 1] if n.startswith("query") else v for n, v in values.items()}
        assert score(single).mAP == scores.average_precision[row]


def test_input_is_left_alone() -> None:
    values = random_data(3)
    before = {name: value.copy() for name, value in values.items()}
    score(values)
    for name, value in values.items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("side", ["query", "gallery"])
def test_unusable_features_are_refused(side: str) -> None:
    values = random_data(4)
    values[f"{side}_features"][6] = 0
    with pytest.raises(
        DataError, match=rf"1 {side} feature row with nothing but zeros \(first: row 6\)"
    ):
        score(values)
    values[f"{side}_features"][5, 2] = np.nan
    with pytest.raises(NonFiniteFeaturesError, match="row 5"):
        score(values)


def test_shapes_that_do_not_fit_are_refused() -> None:
    values = random_data(5)
    with pytest.raises(DataError, match="must be"):
        score(values | {"query_ids": values["query_ids"][:3]})
    with pytest.raises(DataError, match="must be"):
        score(values | {"gallery_cameras": values["gallery_cameras"][:, None]})
    with pytest.raises(DataError, match="16 dimensions, gallery features 3"):
        score(values | {"gallery_features": values["gallery_features"][:, :3]})


def test_nothing_to_score_is_refused() -> None:
    values = random_data(6)
    with pytest.raises(DataError, match="the query holds no usable image"):
        score({n: v[:0] if n.startswith("query") else v for n, v in values.items()})
    with pytest.raises(DataError, match="the gallery holds no usable image"):
        score({n: v[:0] if n.startswith("gallery") else v for n, v in values.items()})
    with pytest.raises(DataError, match="the gallery holds no usable image"):
        score(values | {"gallery_ids": np.full(40, -1)})
    with pytest.raises(DataError, match=r"none of 15 queries has a match .* share no identity"):
        score(values | {"gallery_ids": np.full(40, 99)})
    with pytest.raises(DataError, match=r"15 queries, and all are junk \(identity -1\)"):
        score(values | {"query_ids": np.full(15, -1)})


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="market or other-camera or any-camera"):
        evaluate_ranking(**random_data(7), protocol="cuhk")  # type: ignore[arg-type]
