"""Commands in the pages are ones that the command line takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import typer
from typer.core import TyperGroup

from cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```\w*\n(.*?)^```|((?:^    .*\n)+)", re.MULTILINE | re.DOTALL)
SYNOPSIS = re.compile(r"\[|\.\.\.|[a-zA-Z]\|[a-zA-Z]")
"""Signs of a form that several commands have."""

UsageError = cast(type[Exception], typer.BadParameter.__mro__[1])
"""Typer has a click of its own, without a public name for it."""


def commands(text: str) -> Iterator[str]:
    """What follows `resight` in each command of a page's blocks."""
    for block in BLOCK.finditer(text):
        joined = re.sub(r"\\\n\s*", "", block.group(1) or block.group(2))
        for line in joined.splitlines():
            typed = re.match(r"\s*(?:\$ )?(?:[A-Z_]+=\S+ |nohup )*resight (.*)", line)
            if typed and not SYNOPSIS.search(typed[1]):
                yield re.split(r"\s[|>&#]|\s2>", f"{typed[1]} ")[0]


def parse(typed: str) -> None:
    """Raise UsageError unless the command line takes it; nothing is run."""
    words = shlex.split(typed)
    command = typer.main.get_command(app)
    while isinstance(command, TyperGroup):
        name = words.pop(0)
        if name not in command.commands:
            raise UsageError(f"no command {name}")
        command = command.commands[name]
    command.make_context(command.name, words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_a_page_are_taken(page: Path) -> None:
    refused = []
    for typed in commands(page.read_text()):
        try:
            parse(typed)
        except UsageError as error:
            refused.append(f"resight {typed}: {error}")
    assert not refused


def test_the_commands_of_a_block_are_found_and_parsed() -> None:
    page = (
        "Text:\n\n    A=1 resight runs list runs  # all\n    resight gate [--json]\n\n"
        "```console\n$ resight export --run a \\\n      --out b > log\nexported\n```\n"
    )
    found = list(commands(page))
    assert found == ["runs list runs ", "export --run a --out b"]
    for typed in found:
        parse(typed)
    for wrong in ("runs lists runs", "export --run a", "export --run a --out b --ot c"):
        with pytest.raises(UsageError):
            parse(wrong)


def test_the_quick_start_is_among_them() -> None:
    assert len(list(commands((ROOT / "README.md").read_text()))) > 10
