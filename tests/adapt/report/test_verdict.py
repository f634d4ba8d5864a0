"""A run in words: every ending, every figure that speaks, and no promise without a gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.errors import DataError
from adapt.report.verdict import in_words, read_gate
from models.job_contract import GateVerdict
from tests.support.tiny_runs import data, info

CAMERAS = data("one").model_copy(update={"cameras": ("c1", "c2")})


def row(number: int, **figures: Any) -> dict[str, Any]:
    good = {
        "clusters": 20.0,
        "outlier_share": 0.1,
        "agreement": 0.95,
        "cross_camera_share": 0.9,
        "loss": 5.0 - number,
    }
    return {"round": number, "warnings": [], **good, **figures}


def said(*rounds: dict[str, Any], **changes: Any) -> dict[str, str]:
    """Sentences of a finished run -> their marks."""
    _, _, points = in_words(info(rounds=3, data=(CAMERAS,), **changes), "finished", rounds, None)
    return {point.text: point.mark for point in points}


def mark_of(words: str, sentences: dict[str, str]) -> str:
    (mark,) = [mark for text, mark in sentences.items() if words in text]
    return mark


@pytest.mark.parametrize(
    ("status", "changes", "mark", "words"),
    [
        (
            "finished",
            {},
            "plain",
            "finished all 2 rounds. Run resight gate to see whether the new model is better",
        ),
        (
            "stopped",
            {},
            "odd",
            "stopped after 2 of 3 rounds. Resume it with resight adapt --resume",
        ),
        ("finished", {"rounds": 1}, "plain", "finished its only round. Run resight gate"),
        ("running", {}, "odd", "still going, 2 of 3 rounds done"),
        (
            "crashed",
            {},
            "bad",
            "crashed after 2 of 3 rounds. Resume it with resight adapt --resume",
        ),
        (
            "failed",
            {"reason": "CLUSTERS_COLLAPSED", "error": "1 cluster"},
            "bad",
            "failed in round 3 of 3 (CLUSTERS_COLLAPSED); the network of round 2 is kept. "
            "It says: 1 cluster.",
        ),
        ("failed", {"reason": "INTERRUPTED"}, "bad", "Resume it with"),
        ("failed", {"reason": "DIVERGED", "rounds": 0}, "bad", "no network is kept"),
    ],
)
def test_endings(status: str, changes: dict[str, Any], mark: str, words: str) -> None:
    told, lead, _ = in_words(info(**{"rounds": 2, **changes}), status, [], None)
    assert words in lead
    assert told == mark


def test_what_cannot_go_on_is_not_told_to() -> None:
    _, lead, _ = in_words(info(reason="DIVERGED"), "failed", [], None)
    assert "Resume" not in lead


def test_a_single_round_is_one_round() -> None:
    assert "1 of 1 round gave warnings" in " ".join(said(row(1, warnings=["odd"])))


@pytest.mark.parametrize(
    ("figures", "words", "mark"),
    [
        ({}, "10% of the crops", "good"),
        ({"outlier_share": 0.31}, "31% of the crops", "odd"),
        ({"outlier_share": 0.61}, "61% of the crops", "bad"),
        ({}, "have settled", "good"),
        ({"agreement": 0.89}, "still move", "odd"),
        ({"agreement": 0.69}, "not settled", "bad"),
        ({}, "90% of the clusters", "good"),
        ({"cross_camera_share": 0.05}, "instead of by person", "bad"),
        ({}, "The loss fell from 4 to 3", "good"),
        ({"loss": 4.5}, "did not fall: from 4 to 4.5", "odd"),
        ({}, "No round gave a warning", "good"),
        ({"warnings": ["odd"]}, "1 of 2 rounds gave warnings", "odd"),
    ],
)
def test_figures_of_the_last_round_speak(figures: dict[str, Any], words: str, mark: str) -> None:
    assert mark_of(words, said(row(1), row(2, **figures))) == mark


def test_clusters_are_told_from_first_to_last() -> None:
    sentences = said(row(1, clusters=19.0), row(2, clusters=29.0))
    assert mark_of("19 in the first round, 29 in the last", sentences) == "plain"


def test_of_several_sets_the_worst_is_told() -> None:
    last = {k: v for k, v in row(2).items() if k != "agreement"}
    sentences = said(row(1), {**last, "agreement_1": 0.99, "agreement_2": 0.5})
    assert mark_of("0.50 of 1", sentences) == "bad"


def test_one_camera_cannot_be_spanned() -> None:
    _, _, points = in_words(info(data=(data("one"),)), "finished", [row(1)], None)
    assert not [point for point in points if "cameras" in point.text]


@pytest.mark.parametrize(("without", "mark"), [(1, "plain"), (4, "odd")])
def test_queries_without_a_match_are_told(without: int, mark: str) -> None:
    judged = 20 - without
    told = said(row(1, val_queries=judged, val_queries_without_match=without))
    assert (
        mark_of(f"No score counts {without} of 20 validation queries: no match in an", told) == mark
    )
    told = said(row(1, val_queries=20, val_queries_without_match=0))
    assert not any("validation" in text for text in told)


def test_crops_that_cannot_be_read_are_told() -> None:
    lost = CAMERAS.model_copy(update={"unreadable": 1, "crops": 9})
    _, _, points = in_words(info(data=(lost,)), "finished", [], None)
    assert [(p.mark, p.text) for p in points] == [
        ("odd", "1 of 10 crops of target cannot be read.")
    ]


@pytest.mark.parametrize(
    ("verdict", "mark"),
    [("promote", "good"), ("hold", "odd"), ("reject", "bad"), ("unjudged", "odd")],
)
def test_a_gate_has_the_first_word(verdict: str, mark: str) -> None:
    gate = GateVerdict.model_validate({"verdict": verdict, "reasons": ["because", "also"]})
    told, lead, points = in_words(info(rounds=3), "finished", [row(1)], gate)
    assert lead.lower().startswith(verdict)
    assert told == mark
    assert [p.text for p in points[:3]] == ["because", "also", "The run finished all 3 rounds."]


def test_a_gate_is_read_whatever_else_it_says(tmp_path: Path) -> None:
    file = tmp_path / "gate.json"
    file.write_text(json.dumps({"verdict": "hold", "reasons": ["r"], "proxies": {}}))
    assert read_gate(file) == GateVerdict(verdict="hold", reasons=("r",))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"verdict": "yes"}', '{"reasons": []}'])
def test_what_is_no_gate_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "gate.json"
    file.write_text(content)
    with pytest.raises(DataError, match=r"gate\.json is not a verdict of the gate"):
        read_gate(file)
    with pytest.raises(DataError, match="cannot be read"):
        read_gate(tmp_path / "none.json")
