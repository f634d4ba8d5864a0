"""docs/architecture.md, its picture and the decision records name what exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tools.draw_ways import PICTURE, draw, modules

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text()
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
SECTIONS = ["Context", "Decision", "Alternatives", "Consequences"]


def _answers() -> list[tuple[str, str]]:
    """File and name of each row of the table of questions."""
    table = TEXT.partition("## Where do I find")[2].partition("\n## ")[0]
    rows = [line.split("|")[2:4] for line in table.splitlines() if line.startswith("| ")][1:]
    return [(file.strip().strip("`"), name.strip().strip("`")) for file, name in rows]


def _defined(file: Path) -> set[str]:
    """Names that a module defines at its top level, and its methods as `Class.method`."""
    names: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            members = [
                n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
            ]
            names |= {f"{node.name}.{member.name}" for member in members}
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_the_table_of_questions_is_read() -> None:
    assert ("adapt/losses/triplet.py", "soft_softmax_triplet") in _answers()
    assert len(_answers()) >= 20


@pytest.mark.parametrize(("file", "name"), _answers(), ids=lambda value: value)
def test_every_answer_names_a_file_and_what_it_defines(file: str, name: str) -> None:
    assert (ROOT / file).exists()
    assert not name or name in _defined(ROOT / file)


def test_every_folder_of_the_tree_exists_and_none_is_missing() -> None:
    tree = TEXT.partition("## Folders")[2].partition("`lint-imports`")[0]
    stack: list[tuple[int, str]] = []
    named = set()
    for line in tree.splitlines():
        if found := re.match(r"    ( *)([a-z0-9_/]+)/(?: |$)", line):
            depth = len(found[1])
            stack = [entry for entry in stack if entry[0] < depth]
            path = "/".join([*(name for _, name in stack), found[2]])
            stack.append((depth, found[2]))
            named.add(path)
    assert not [path for path in named if not (ROOT / path).is_dir()]
    packages = {
        path.parent.relative_to(ROOT).as_posix()
        for package in ("adapt", "service")
        for path in (ROOT / package).glob("*/__init__.py")
    }
    assert packages <= named


@pytest.mark.parametrize("module", modules())
def test_every_module_of_the_picture_exists(module: str) -> None:
    assert (ROOT / f"{module.replace('.', '/')}.py").is_file()


def test_the_picture_is_drawn_from_its_table() -> None:
    assert PICTURE.read_text() == draw(), "run python tools/draw_ways.py"
    assert "(images/ways.svg)" in TEXT


@pytest.mark.parametrize("file", DECISIONS, ids=lambda file: file.name)
def test_every_decision_has_its_parts_and_is_linked(file: Path) -> None:
    text = file.read_text()
    number = int(file.name[:4])
    assert text.startswith(f"# {number}. ")
    assert re.search(r"^- Date: \d{4}-\d\d-\d\d$", text, re.MULTILINE)
    assert re.search(r"^- Status: \S", text, re.MULTILINE)
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    assert parts[1::2] == SECTIONS
    assert all(part.strip() for part in parts[2::2])
    title = text.splitlines()[0].removeprefix("# ")
    link = f"{number}. [{title.partition('. ')[2]}](decisions/{file.name})"
    assert link in TEXT.partition("## Decisions")[2].splitlines()


def test_decisions_are_numbered_without_gaps() -> None:
    assert [int(file.name[:4]) for file in DECISIONS] == list(range(1, len(DECISIONS) + 1))
