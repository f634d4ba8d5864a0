"""The benchmark of pressure: its arithmetic, and two attacks on a tiny scale."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from benchmarks.pressure.__main__ import ROOT, main
from benchmarks.pressure.attacks import ATTACKS
from benchmarks.pressure.bounds import memory_bound
from benchmarks.pressure.clients import Call
from benchmarks.pressure.rows import TARGETS, Row, number, rows_of
from benchmarks.pressure.trial import (
    AFTER,
    Attack,
    Found,
    longest_refusal,
    longest_wait,
    until_answered,
    waits,
)
from models.image import Preprocessing
from service.config import Settings


def test_a_call_that_blocks_counts_for_all_that_would_have_waited() -> None:
    assert waits([Call(0.0, 0.01), Call(1.0, 0.01)], 0.05) == [0.01, 0.01]
    blocked = waits([Call(0.0, 0.2)], 0.05)
    assert blocked == pytest.approx([0.2, 0.15, 0.1, 0.05])


def test_the_longest_wait_is_from_the_first_refusal_to_the_next_answer() -> None:
    refused = [Call(at, 0.1, "QUEUE_FULL", refused=True) for at in (2.0, 3.0)]
    assert longest_wait([Call(0.0, 0.5), *refused, Call(4.0, 0.25)]) == pytest.approx(2.25)
    assert longest_wait([Call(0.0, 0.5), *refused]) == pytest.approx(1.1)
    assert longest_wait([Call(0.0, 0.5)]) == 0.5
    answered = until_answered([Call(0.0, 0.5), *refused, Call(4.0, 0.25)])
    assert [(call.began, call.seconds) for call in answered] == [(0.0, 0.5), (2.0, 2.25)]


def test_a_refusal_ends_with_the_call_that_is_let_in() -> None:
    switching = [Call(at, 0.1, "SITE_SWITCHING", refused=True) for at in (1.0, 1.5)]
    calls = [Call(0.0, 0.5), *switching, Call(2.0, 9.0), Call(12.0, 0.1, "QUEUE_FULL")]
    assert longest_refusal(calls, "SITE_SWITCHING") == 1.0
    assert longest_refusal(calls, "QUEUE_FULL") == 0.1
    assert longest_refusal(calls[:1], "QUEUE_FULL") == 0.0


def test_the_median_is_held_against_the_target() -> None:
    attack = Attack("name", lambda _: Found(), targets={"own": ("at least", 2.0)})
    repeats = [Found({AFTER: after, "own": 1.0, "x": 7.0}) for after in (1.0, 1.05, 3.0)]
    rows = rows_of(attack, repeats)
    assert rows == [
        Row("name", AFTER, "at most 1.1", (1.0, 1.05, 3.0), "met"),
        Row("name", "own", "at least 2", (1.0, 1.0, 1.0), "not met"),
        Row("name", "x", "", (7.0, 7.0, 7.0), ""),
    ]
    assert rows[0].line() == f"| name | {AFTER} | at most 1.1 | 1.05 | 1 - 3 | met |"
    assert number(12345.6) == "12,346"


def test_the_docs_have_the_bound_of_the_defaults() -> None:
    defaults = Settings.model_construct(decode_threads=2)
    bound = memory_bound(defaults, 0.0, Preprocessing(height=64, width=32), models=2)
    larger = Settings.model_construct(decode_threads=2, max_requests_bytes=300 << 20)
    assert memory_bound(larger, 5.0, Preprocessing(height=64, width=32), models=2) == (
        bound + 5.0 + 3 * (300 - 256 << 20)
    )
    memory = (ROOT / "docs" / "service.md").read_text().partition("## Memory")[2]
    assert f"{bound / 1e9:.2f} GB" in memory.partition("\n## ")[0]


def test_each_attack_has_a_name_of_its_own() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) == 11


def test_an_unknown_attack_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["flood", "--out", str(tmp_path)])
    assert "'flood' is not an attack; give answers" in capsys.readouterr().err


@pytest.mark.usefixtures("thin")
def test_two_attacks_give_rows(tmp_path: Path) -> None:
    """Not what they measured, which depends on the machine, but that all of it is there."""
    tiny = ["--scale", "0.02", "--seconds", "0.5", "--settle", "0.3", "--backbone", "resnet18"]
    main(["answers", "arrivals", *tiny, "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["about"]["scale"] == 0.02
    for attack, own in (("answers", "answer, MB"), ("arrivals", "slowest call, s")):
        rows = {row["figure"]: row for row in found["rows"] if row["attack"] == attack}
        assert {own, "memory before, MB", "cores during", *TARGETS} <= set(rows)
        assert all(rows[figure]["verdict"] in ("met", "not met") for figure in TARGETS)
        assert rows["memory before, MB"]["values"][0] > 20
    assert found["reasons"]["answers"] == {"BAD_LIMIT": 1, "answered": 1}
    assert found["reasons"]["arrivals"]["answered"] >= 1
    assert "| answers | 1 BAD_LIMIT, 1 answered |" in (tmp_path / "out" / "results.md").read_text()
    assert "pressure@1" in (tmp_path / "out" / "answers-0.log").read_text()
