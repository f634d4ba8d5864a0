"""Documentation of the gate cannot drift from its proxies, its rule and its exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.evaluation.gate import DEFAULT_RULE
from adapt.evaluation.proxies.measure import PROXIES
from cli.gating import EXIT_CODES

DOCS = Path(__file__).parents[2] / "docs"
TEXT, COMMANDS = (DOCS / "gate.md").read_text(), (DOCS / "cli.md").read_text()


@pytest.mark.parametrize("name", PROXIES)
def test_every_proxy_has_its_direction_and_its_equation(name: str) -> None:
    direction = "more" if PROXIES[name].sign > 0 else "less"
    assert f"| `{name}` | {direction} |" in TEXT
    assert any(name in line for line in TEXT.splitlines() if line.startswith("### "))


def test_the_rule_is_the_default_one() -> None:
    *first, last = DEFAULT_RULE.proxies
    voters = ", ".join(f"`{name}`" for name in first) + f" and `{last}` vote"
    assert voters in TEXT
    least = DEFAULT_RULE.min_votes
    assert f"at least {least}: promote        at most -{least}: reject" in TEXT
    assert f"spread below {DEFAULT_RULE.min_spread:g}" in TEXT
    assert f"Fewer than {DEFAULT_RULE.min_crops} crops" in TEXT
    assert f"fewer than {DEFAULT_RULE.min_groups} tracks" in TEXT


@pytest.mark.parametrize("verdict", EXIT_CODES)
def test_exit_codes(verdict: str) -> None:
    assert f"| `{verdict}` | {EXIT_CODES[verdict]} |" in TEXT
    assert f"{EXIT_CODES[verdict]} `{verdict}`" in COMMANDS
