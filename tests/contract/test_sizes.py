"""Functions stay small: few parameters, few lines. What has to be longer says why."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("adapt", "benchmarks", "cli", "models", "service", "tests", "tools")
MAX_PARAMETERS = 8
MAX_LINES = 60
REASON = "# long:"
"""Starts the comment, on the line before a function or its decorators, that says why."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def functions(text: str) -> list[Function]:
    """All functions and methods of a module, nested ones too."""
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, Function)]


def parameters(function: Function) -> int:
    """Without self and cls."""
    given = function.args
    names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    starred = [a for a in (given.vararg, given.kwarg) if a is not None]
    return len([name for name in names if name not in ("self", "cls")]) + len(starred)


def lines(function: Function) -> int:
    """From `def` to the last line, the docstring included."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def has_reason(text: str, function: Function) -> bool:
    first = min([function.lineno, *(d.lineno for d in function.decorator_list)])
    return first > 1 and text.splitlines()[first - 2].strip().startswith(REASON)


def too_many_parameters(text: str) -> list[str]:
    return [f.name for f in functions(text) if parameters(f) > MAX_PARAMETERS]


def too_long(text: str) -> list[str]:
    return [f.name for f in functions(text) if lines(f) > MAX_LINES and not has_reason(text, f)]


def modules(package: str) -> list[Path]:
    return [path for path in sorted((ROOT / package).rglob("*.py")) if "pb" not in path.parts]


@pytest.mark.parametrize("package", PACKAGES)
def test_functions_take_few_parameters(package: str) -> None:
    """Commands of `cli` are exempt: each option is a parameter."""
    found = {path: too_many_parameters(path.read_text()) for path in modules(package)}
    assert found
    assert package == "cli" or not {path: names for path, names in found.items() if names}


@pytest.mark.parametrize("package", PACKAGES)
def test_functions_are_short_or_say_why_not(package: str) -> None:
    found = {path: too_long(path.read_text()) for path in modules(package)}
    assert not {path: names for path, names in found.items() if names}


def test_what_counts() -> None:
    header = "class A:\n    def f(self, a, /, b, c, *d, e, f, **g): ...\n"
    (function,) = functions(header)
    assert parameters(function) == 7
    assert not too_many_parameters(header)
    assert too_many_parameters(header.replace(" a,", " a, x, y,")) == ["f"]
    body = "\n".join(["    x = 1"] * MAX_LINES)
    assert too_long(f"def f():\n{body}\n") == ["f"]
    assert not too_long(f"{REASON} one table\n@cached\ndef f():\n{body}\n")
    assert too_long(f"# a comment\ndef f():\n{body}\n") == ["f"]
