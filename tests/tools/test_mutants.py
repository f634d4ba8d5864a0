"""The search for faults that no test notices, on a project of one module."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tools.mutants import (
    ROOMS,
    Result,
    Tree,
    draw,
    equivalents,
    known_results,
    mirror,
    run,
    stages,
    table,
)
from tools.mutation import Fault, faults, modules

pytestmark = pytest.mark.slow

LIMIT_S = 60.0
MODULE = "cli/sizes.py"
SOURCE = """
def grow(size):
    if size < 0:
        raise ValueError(size)
    while size == 77:
        size = size + 1
    return size + 1
"""
MIRROR = """
from cli.sizes import grow

def test_grow():
    assert grow(1) == 2
"""
ELSEWHERE = """
import pytest

import cli.sizes

def test_negative():
    with pytest.raises(ValueError):
        cli.sizes.grow(-1)

def test_77():
    assert cli.sizes.grow(77) == 79
"""

SETTINGS = """
[tool.pytest.ini_options]
addopts = "--import-mode=importlib"
markers = ["slow: slow"]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A module, its mirrored test, and a test elsewhere that names it."""
    root = tmp_path / "project"
    for name, text in {
        MODULE: SOURCE,
        "cli/__init__.py": "",
        "tests/cli/test_sizes.py": MIRROR,
        "tests/contract/test_signs.py": ELSEWHERE,
        "tests/contract/test_other.py": "def test_other():\n    assert True\n",
        "pyproject.toml": SETTINGS,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    subprocess.run(["git", "-C", str(root), "init", "--quiet"], check=True)
    return root


def the_fault(project: Path, before: str, operator: str) -> Fault:
    (fault,) = (
        fault
        for fault in faults(MODULE, (project / MODULE).read_bytes())
        if (fault.before, fault.operator) == (before, operator)
    )
    return fault


def test_stages_are_the_mirror_then_tests_that_name_the_module_then_those_of_its_room(
    project: Path,
) -> None:
    assert stages(project, MODULE) == [
        ["tests/cli/test_sizes.py"],
        ["tests/contract/test_signs.py"],
        ["tests/cli"],
    ]


def test_a_module_belongs_to_the_nearest_room(project: Path) -> None:
    for name in ("adapt/config.py", "adapt/data/crops.py", "service/rpc/pb/wire_pb2.py"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("LIMIT = 1\n")
    found = {room: paths for room, paths in modules(project, ROOMS).items() if paths}
    assert found == {
        "adapt": ["adapt/config.py"],
        "adapt/data": ["adapt/data/crops.py"],
        "cli": ["cli/__init__.py", "cli/sizes.py"],
    }
    (project / "tests/adapt/data").mkdir(parents=True)
    assert stages(project, "adapt/data/crops.py") == [["tests/adapt/data"]]
    assert stages(project, "adapt/config.py") == []


@pytest.mark.parametrize(
    ("before", "operator", "outcome", "by"),
    [
        (
            "return size + 1",
            "return value replaced",
            "caught",
            "tests/cli/test_sizes.py::test_grow",
        ),
        (
            "raise ValueError(size)",
            "raise removed",
            "caught",
            "tests/contract/test_signs.py::test_negative",
        ),
        ("size < 0", "comparison flipped", "survived", ""),
    ],
)
def test_the_nearest_test_that_notices_is_named(
    project: Path, before: str, operator: str, outcome: str, by: str
) -> None:
    fault = the_fault(project, before, operator)
    assert Tree(project, LIMIT_S).judge(fault) == (outcome, by)
    assert (project / MODULE).read_text() == SOURCE


def test_tests_that_hang_notice_too(project: Path) -> None:
    class Hasty(Tree):
        """Has little time where the tests hang, and enough where they pass."""

        def run(self, tests: Sequence[str], *options: str) -> tuple[str, str]:
            hangs = "while True" in (self.root / MODULE).read_text()
            self._limit_s = 1.0 if hangs else LIMIT_S
            return super().run(tests, *options)

    fault = the_fault(project, "size == 77", "comparison flipped")
    tree = Hasty(project, LIMIT_S)
    assert tree.judge(replace(fault, after="True")) == ("timeout", mirror(MODULE))


def test_tests_that_are_slow_by_themselves_say_nothing(project: Path) -> None:
    for test in ("tests/cli/test_sizes.py", "tests/contract/test_signs.py"):
        (project / test).write_text("import time\n\ndef test_long():\n    time.sleep(60)\n")
    fault = the_fault(project, "size < 0", "comparison flipped")
    assert Tree(project, limit_s=0.5).judge(fault) == ("survived", "")


def test_tests_that_fail_by_themselves_say_nothing(project: Path) -> None:
    (project / "tests/cli/test_sizes.py").write_text("import cli.no_such_module\n")
    fault = the_fault(project, "size < 0", "comparison flipped")
    assert Tree(project, LIMIT_S).judge(fault) == ("survived", "")


def test_a_run_leaves_the_project_alone_and_is_not_repeated(project: Path) -> None:
    fault = the_fault(project, "return size + 1", "return value replaced")
    (first,) = run(project, [fault], {}, {}, LIMIT_S)
    assert first.outcome == "caught"
    assert (project / MODULE).read_text() == SOURCE
    known = {first.key: replace(first, by="as before")}
    assert [result.by for result in run(project, [fault], known, {}, LIMIT_S)] == ["as before"]
    (project / "tests/cli/test_sizes.py").write_text(MIRROR + "\n")
    assert [result.by for result in run(project, [fault], known, {}, LIMIT_S)] == [first.by]


def test_equivalents_are_not_run(project: Path, tmp_path: Path) -> None:
    fault = the_fault(project, "size < 0", "comparison flipped")
    file = tmp_path / "equivalent.toml"
    file.write_text(f"[[equivalent]]\nfault = {json.dumps(fault.key)}\nreason = 'why not'\n")
    (result,) = run(project, [fault], {}, equivalents(file), LIMIT_S)
    assert (result.outcome, result.by) == ("equivalent", "why not")


def test_the_seed_alone_decides_what_is_drawn(project: Path) -> None:
    first, again, other = (
        [fault.key for fault in draw(project, ["cli"], seed)] for seed in (1, 1, 2)
    )
    assert first == again != other
    assert sorted(first) == sorted(other)


def test_the_table_begins_with_the_survivors(tmp_path: Path) -> None:
    fields = {"key": "k", "operator": "o", "before": "a | b", "after": "c", "tests": ""}
    results = [
        Result(path="a.py", line=1, outcome="caught", by="tests/test_a.py::test_a", **fields),
        Result(path="b.py", line=2, outcome="survived", by="", **fields),
    ]
    text = table(results)
    assert text.startswith("2 faults: 1 caught, 1 survived.\n")
    assert text.index("b.py:2") < text.index("a.py:1")
    assert "| `a \\| b` |" in text
    file = tmp_path / "mutants.jsonl"
    assert known_results(file) == {}
    file.write_text(json.dumps(vars(results[0])) + "\n")
    assert known_results(file) == {"k": results[0]}
