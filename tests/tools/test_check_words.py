"""The check of words: every row of the table finds its example, and nothing else is disturbed."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from tools import check_words
from tools.check_words import (
    ROOT,
    Word,
    check,
    check_lengths,
    check_once,
    check_text,
    passages,
    read_table,
)

TABLE = read_table()


def _file_for(word: Word) -> str:
    """A path at which the row applies, with the file type of its kind."""
    folder = word.under[0] if word.under else "adapt"
    if folder.endswith((".py", ".md")):
        return folder
    return f"{folder}/file.{'py' if 'code' in word.kinds else 'md'}"


@pytest.mark.parametrize("word", TABLE.words, ids=lambda word: word.example)
def test_each_row_finds_its_example_and_names_file_line_and_better_word(word: Word) -> None:
    path = _file_for(word)
    found = check_text(path, f"\n{word.example}\n", [word])
    assert len(found) >= 1
    assert (found[0].path, found[0].line) == (path, 2)
    assert str(found[0]).startswith(f"{path}:2: ")
    assert word.better in found[0].problem


@pytest.mark.parametrize("word", TABLE.words, ids=lambda word: word.example)
def test_no_row_finds_what_it_asks_for(word: Word) -> None:
    for better in word.better.split(": ")[-1].split(", "):
        assert not check_text(_file_for(word), f"{better}\n", [word]), better


@pytest.mark.parametrize(
    ("left", "path"),
    [
        ("group = World()", "adapt/a.py"),
        ("world = ProcessGroup()", "tests/adapt/test_a.py"),
        ("group = ALONE", "adapt/a.py"),
        ("if world.first: world.add_to_first(x)", "adapt/a.py"),
        ("spread(method)", "adapt/training/a.py"),
        ("class Exchanged: ...", "adapt/a.py"),
        ("room: Room", "adapt/a.py"),
        ("room: TableRoom", "adapt/a.py"),
        ("room = in_memory()", "adapt/a.py"),
        ("at: Standing", "adapt/a.py"),
        ("freeze(at)", "adapt/a.py"),
        ("thaw(at)", "adapt/a.py"),
        ("PASSING = 1", "service/a.py"),
        ("CONTINUED = 1", "service/a.py"),
        ("run.fate()", "adapt/a.py"),
        ('x = "died"', "adapt/a.py"),
        ("train_into(x)", "adapt/a.py"),
        ("wish = Wish()", "service/a.py"),
        ("x.ask(wish)", "service/a.py"),
        ("class Ending: ...", "service/a.py"),
        ("class Work: ...", "service/a.py"),
        ("leftovers = []", "service/a.py"),
        ("class Request: ...", "service/a.py"),
        ("class Answer: ...", "service/a.py"),
        ("least_crops = 1", "adapt/a.py"),
        ("most_crops = 1", "adapt/a.py"),
        ("_MOST_CROPS = 1", "adapt/a.py"),
        ("fewest_crops = 1", "adapt/a.py"),
        ("fewest = 1", "adapt/a.py"),
        ("FEWEST = 1", "service/a.py"),
        ("_LEAST = 1", "service/a.py"),
        ("def move(self): ...", "service/a.py"),
        ("wiper.wake()", "service/a.py"),
        ("# moves a site to the server's own model", "service/a.py"),
        ("# the site is moved to the model", "service/a.py"),
        ("# the site switches to the new model", "service/a.py"),
        ("# as the site changes over.", "service/a.py"),
        ("# wake it", "service/a.py"),
        ("# the file does not hold: bad", "adapt/a.py"),
        ("# it is no run folder", "adapt/a.py"),
        ("# it is no regular expression", "adapt/a.py"),
        ("# what may pass, as a full disk", "adapt/a.py"),
        ("# it goes on with --resume", "adapt/a.py"),
        ("# is not at hand", "adapt/a.py"),
        ("# files of nobody", "adapt/a.py"),
        ("# what lies there", "adapt/a.py"),
        ('help="Of its randomness."', "cli/a.py"),
        ('help="Image file of the one to look for."', "cli/a.py"),
        ('x = "1 clusters"', "adapt/a.py"),
        ('x = "1 queries"', "adapt/a.py"),
        ("normalise(neighbour, optimiser, centre)", "adapt/a.py"),
    ],
)
def test_the_words_of_the_style_guide_are_found(left: str, path: str) -> None:
    assert check_text(path, f"{left}\n", TABLE.words)


@pytest.mark.parametrize(
    "text",
    [
        "batch.first = rows.first",
        "group.is_main and group.any_rank(full)",
        "# there is no such site; it is no longer used, and is no worse",
        "# The file does not hold identities.",
        "# labelled, unlabelled and cancelled crops; the moving average of 11 clusters",
        "# `World` is not looked for in words, but the world is.",
        'x = "World"',
        "spread = figures['spread']",
    ],
)
def test_what_is_written_well_is_left_alone(text: str) -> None:
    found = [f.problem for f in check_text("adapt/evaluation/a.py", f"{text}\n", TABLE.words)]
    assert [problem for problem in found if "'World'" not in problem] == []


def test_phrases_are_found_across_lines_of_comments_docstrings_and_joined_strings() -> None:
    text = '''"""A run goes
    on."""
# It is not at
# hand.
error = (
    "this is "
    "no run folder"
)
'''
    assert [(f.line, f.problem.split(":")[0]) for f in check_text("a.py", text, TABLE.words)] == [
        (1, "'goes on'"),
        (3, "'at hand'"),
        (6, "'is no '"),
    ]


def test_code_is_not_prose_and_strings_are_not_code() -> None:
    kinds = [(p.kind, p.joined()[0]) for p in passages("a.py", 'x = "text" + y  # note\n')]
    assert kinds == [("prose", "text"), ("prose", "note"), ("code", "x = + y")]


def test_markdown_tells_code_from_text() -> None:
    text = "Text with `name` in\ntwo lines.\n\n    indented\n\n```\nfenced\n```\n- item\n"
    kinds = [(p.kind, p.joined()[0]) for p in passages("a.md", text)]
    assert kinds == [
        ("code", "name"),
        ("prose", "Text with `x` in two lines."),
        ("code", "indented"),
        ("code", "fenced"),
        ("prose", "- item"),
    ]


def test_comments_of_protos_and_tables_are_prose() -> None:
    proto = "// It goes\n// on.\nmessage A {}  // at hand\n"
    assert [f.line for f in check_text("a.proto", proto, TABLE.words)] == [1, 3]
    assert [f.line for f in check_text("a.toml", "a = 1  # goes on\n", TABLE.words)] == [1]


def test_a_row_holds_below_its_folders_and_spares_what_is_exempt() -> None:
    word = dataclasses.replace(
        TABLE.words[0], under=("adapt", "cli/a.py"), exempt=("adapt/runs",), kinds=("code",)
    )
    paths = ["adapt/a.py", "adapt/runs/a.py", "adapter/a.py", "cli/a.py", "cli/b.py"]
    hits = [path for path in paths if check_text(path, "World\n", [word])]
    assert hits == ["adapt/a.py", "cli/a.py"]


def test_published_entries_of_the_changelog_are_left_alone() -> None:
    text = "# Changelog\n\n## 0.2.0 (unreleased)\n\nIt goes on.\n\n## 0.1.0\n\nIt goes on.\n"
    assert [f.line for f in check_text("CHANGELOG.md", text, TABLE.words)] == [5]


def test_long_lines_of_documentation_are_found_but_for_tables_code_and_links() -> None:
    long = "word " * 30
    text = f"{long}\n\n| {long}|\n\n    {long}\n\n```\n{long}\n```\n{long}\n[a](b) {long}\n"
    assert [finding.line for finding in check_lengths("docs/a.md", text)] == [1, 10]
    assert "150 characters" in check_lengths("docs/a.md", f"{long}\n")[0].problem
    assert not check_lengths("docs/a.md", "x" * 120)
    assert check_lengths("docs/a.md", "x" * 121)


def test_a_name_that_two_modules_define_is_found() -> None:
    files = [
        ("adapt/a.py", "class Plan:\n    ...\n"),
        ("adapt/b.py", "\n_PATIENCE = 3\n"),
        ("cli/a.py", "from adapt.a import Plan\n\nclass Plan: ...\nPATIENCE: int = 4\n"),
    ]
    found = check_once(files, ["Plan", "PATIENCE"])
    assert [(f.path, f.line) for f in found] == [("cli/a.py", 3), ("cli/a.py", 4)]
    assert "adapt/b.py" in found[1].problem


def test_tests_and_benchmarks_define_no_name_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_words, "ROOT", tmp_path)
    paths = ["benchmarks/a.py", "tests/support/a.py"]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("_PATIENCE_S = 1\n")
    assert [finding.path for finding in check(paths, TABLE)] == paths[1:]


def test_the_command_fails_and_says_what_to_write(tmp_path: Path) -> None:
    script = tmp_path / "tools" / "check_words.py"
    script.parent.mkdir()
    script.write_text((ROOT / "tools" / "check_words.py").read_text())
    (script.parent / "words.toml").write_text((ROOT / "tools" / "words.toml").read_text())
    (tmp_path / "good.py").write_text("group = SINGLE_PROCESS\n")
    (tmp_path / "bad.py").write_text("group = ALONE\n")

    def run(name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(script), str(tmp_path / name)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert (run("good.py").returncode, run("good.py").stdout) == (0, "")
    assert run("bad.py").returncode == 1
    assert run("bad.py").stdout == "bad.py:1: 'ALONE': write SINGLE_PROCESS\n"
