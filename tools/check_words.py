"""Check the project's words and the length of documentation lines; the table is words.toml.

python tools/check_words.py [FILE ...]     without files: all that git knows and the table lists

Each finding is one line: file, line number, what was found, what to write.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "tools" / "words.toml"
KINDS = ("code", "prose")
MAX_LINE = 120
_HASH_COMMENTS = (".toml", ".cfg", ".yaml", ".yml", "Makefile", "Dockerfile")
_MARKED = re.compile(r"``?([^`]+)``?")
_QUOTES = re.compile(r"^[rRbBfFuU]*(\"\"\"|'''|\"|')|(\"\"\"|'''|\"|')$")
_NEW_ITEM = re.compile(r"\s*([-*|#>]|\d+\.)\s?")


@dataclass(frozen=True)
class Passage:
    """Text that belongs together. kind: one of `KINDS`. lines: (line number, text) in order."""

    kind: str
    lines: tuple[tuple[int, str], ...]

    def joined(self) -> tuple[str, list[int], list[int]]:
        """One string with single blanks, where each of its lines starts, and the line numbers."""
        pieces, starts, numbers = [], [], []
        end = 0
        for number, line in self.lines:
            if piece := " ".join(line.split()):
                pieces.append(piece)
                starts.append(end)
                numbers.append(number)
                end += len(piece) + 1
        return " ".join(pieces), starts, numbers


@dataclass(frozen=True)
class Word:
    """A row of the table: text that matches `pattern` is to be written as `better`.

    kinds: where it is looked for. under: folders and files; empty: all. exempt: files that may
    keep it, each with its reason in the table. example: text that has to be found.
    """

    pattern: re.Pattern[str]
    better: str
    kinds: tuple[str, ...]
    under: tuple[str, ...]
    exempt: tuple[str, ...]
    example: str

    def applies(self, path: str, kind: str) -> bool:
        """Whether the row holds for text of a kind in a file, given from the root."""
        return (
            kind in self.kinds
            and (not self.under or _inside(path, self.under))
            and not _inside(path, self.exempt)
        )


@dataclass(frozen=True)
class Table:
    """words.toml. checked: folders and files. once: names with one definition."""

    checked: tuple[str, ...]
    skipped: tuple[str, ...]
    words: tuple[Word, ...]
    once: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """What is wrong, where, and what to do."""

    path: str
    line: int
    problem: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.problem}"


def read_table(path: Path = TABLE) -> Table:
    """Read words.toml. Raises ValueError naming the row that is invalid."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    words = []
    for row in table["word"]:
        unknown = set(row) - {"pattern", "better", "kinds", "under", "exempt", "example"}
        kinds = tuple(row.get("kinds", KINDS))
        if unknown or not set(kinds) <= set(KINDS):
            raise ValueError(f"{path}: row {row}: unknown keys {sorted(unknown)} or kinds {kinds}")
        words.append(
            Word(
                pattern=re.compile(row["pattern"], re.MULTILINE),
                better=row["better"],
                kinds=kinds,
                under=tuple(row.get("under", ())),
                exempt=tuple(row.get("exempt", {})),
                example=row["example"],
            )
        )
    return Table(
        checked=tuple(table["checked"]),
        skipped=tuple(table["skipped"]),
        words=tuple(words),
        once=tuple(table["once"]["names"]),
    )


def _inside(path: str, places: Iterable[str]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)


def passages(path: str, text: str) -> Iterator[Passage]:
    """Split a file into passages of code and prose, as its name says.

    Python: comments and strings are prose. Markdown: blocks and spans of code are code. Other
    files: comments are prose and the rest is code; files of an unknown type are prose.
    """
    if path.endswith(".py"):
        found = _python(text)
    elif path.endswith(".md"):
        found = _markdown(text)
    elif path.endswith(".proto"):
        found = _commented(text, "//")
    elif path.endswith(_HASH_COMMENTS):
        found = _commented(text, "#")
    else:
        found = iter([Passage("prose", tuple(enumerate(text.splitlines(), 1)))])
    for passage in found:
        if passage.kind == "prose":
            yield from _without_marked_code(passage)
        else:
            yield passage


def _without_marked_code(passage: Passage) -> Iterator[Passage]:
    """The prose with `x` for each name between backticks, and these names as code."""
    plain = []
    for number, line in passage.lines:
        for name in _MARKED.findall(line):
            yield Passage("code", ((number, name),))
        plain.append((number, _MARKED.sub("`x`", line)))
    yield Passage("prose", tuple(plain))


def _python(text: str) -> Iterator[Passage]:
    code = [list(line) for line in text.splitlines()]
    prose: list[tuple[int, str]] = []
    before = ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        name = tokenize.tok_name[token.type]
        kind = "comment" if name == "COMMENT" else "string" if "STRING" in name else ""
        if kind != before and name != "NL" and prose:
            yield Passage("prose", tuple(prose))
            prose = []
        if kind:
            (first, left), (last, right) = token.start, token.end
            for number in range(first, last + 1):
                row = code[number - 1]
                begin = left if number == first else 0
                end = right if number == last else len(row)
                row[begin:end] = " " * (end - begin)
            prose += _lines_of(kind, token.string, first)
        before = before if name == "NL" else kind
    if prose:
        yield Passage("prose", tuple(prose))
    yield Passage("code", tuple((number, "".join(row)) for number, row in enumerate(code, 1)))


def _lines_of(kind: str, source: str, first: int) -> list[tuple[int, str]]:
    if kind == "comment":
        return [(first, source.lstrip("#:"))]
    inner = _QUOTES.sub("", source).replace("\\n", " ")
    return list(enumerate(inner.splitlines() or [""], first))


def _markdown(text: str) -> Iterator[Passage]:
    block: list[tuple[int, str]] = []
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        fence = line.lstrip().startswith("```")
        code = fenced or (line.startswith("    ") and not block and line.lstrip()[:1] not in "-*")
        if (fence or code or not line.strip() or _NEW_ITEM.match(line)) and block:
            yield Passage("prose", tuple(block))
            block = []
        if fence:
            fenced = not fenced
        elif code:
            yield Passage("code", ((number, line),))
        elif line.strip():
            block.append((number, line))
    if block:
        yield Passage("prose", tuple(block))


def _commented(text: str, mark: str) -> Iterator[Passage]:
    block: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        code, found, comment = line.partition(mark)
        if code.strip():
            yield Passage("code", ((number, code),))
        if not found and block:
            yield Passage("prose", tuple(block))
            block = []
        if found:
            block.append((number, comment))
    if block:
        yield Passage("prose", tuple(block))


def check_text(path: str, text: str, words: Sequence[Word]) -> list[Finding]:
    """Find the table's words in one file. path: from the root, with `/`."""
    if path == "CHANGELOG.md":
        text = _unreleased(text)
    findings = []
    found = list(passages(path, text))
    for kind in KINDS:
        rows = [word for word in words if word.applies(path, kind)]
        joined, starts, numbers = _join([each for each in found if each.kind == kind])
        for word in rows:
            for match in word.pattern.finditer(joined):
                line = numbers[bisect_right(starts, match.start()) - 1]
                findings.append(Finding(path, line, f"{match[0]!r}: write {word.better}"))
    return sorted(findings, key=lambda finding: finding.line)


def _join(several: Iterable[Passage]) -> tuple[str, list[int], list[int]]:
    """Passages a line each, so that no phrase spans two: as `Passage.joined`."""
    texts, starts, numbers = [], [], []
    end = 0
    for passage in several:
        text, within, lines = passage.joined()
        texts.append(text)
        starts += [end + start for start in within]
        numbers += lines
        end += len(text) + 1
    return "\n".join(texts), starts, numbers


def _unreleased(text: str) -> str:
    """The changelog up to its second release: what is published is not rewritten."""
    heads = [match.start() for match in re.finditer(r"(?m)^## ", text)]
    return text if len(heads) < 2 else text[: heads[1]]


def check_lengths(path: str, text: str) -> list[Finding]:
    """Find lines of a Markdown file above `MAX_LINE`, but for tables, code and links."""
    findings, fenced = [], False
    for number, line in enumerate(text.splitlines(), 1):
        fence = line.lstrip().startswith("```")
        fenced = fenced != fence
        free = fenced or fence or line.startswith(("    ", "|")) or "](" in line or "://" in line
        if len(line) > MAX_LINE and not free:
            problem = f"{len(line)} characters: break the line at {MAX_LINE}"
            findings.append(Finding(path, number, problem))
    return findings


def check_once(files: Iterable[tuple[str, str]], names: Sequence[str]) -> list[Finding]:
    """Find names that two modules define. files: (path, text) of Python modules."""
    wanted = "|".join(map(re.escape, names))
    definition = re.compile(rf"(?m)^(?:class (_?(?:{wanted}))\b|(_?(?:{wanted}))\b\s*[:=])")
    seen: dict[str, str] = {}
    findings = []
    for path, text in files:
        for match in definition.finditer(text):
            name = (match[1] or match[2]).lstrip("_")
            line = text.count("\n", 0, match.start()) + 1
            if name in seen:
                problem = f"{name!r} is also defined in {seen[name]}: give one of them another name"
                findings.append(Finding(path, line, problem))
            seen.setdefault(name, path)
    return findings


def _files(given: Sequence[Path], table: Table) -> list[str]:
    if given:
        return [path.resolve().relative_to(ROOT).as_posix() for path in given]
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    return [path for path in listed if _inside(path, table.checked) and (ROOT / path).is_file()]


def check(paths: Sequence[str], table: Table) -> list[Finding]:
    """Check files, given from the root."""
    findings, modules = [], []
    for path in paths:
        if _inside(path, table.skipped):
            continue
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        findings += check_text(path, text, table.words)
        if path.endswith(".md"):
            findings += check_lengths(path, text)
        if path.endswith(".py"):
            modules.append((path, text))
    return findings + check_once(modules, table.once)


def main() -> int:
    """Print the findings; 1 if there are any."""
    parser = argparse.ArgumentParser(description="Check the words that the project uses.")
    parser.add_argument("files", nargs="*", type=Path)
    table = read_table()
    findings = check(_files(parser.parse_args().files, table), table)
    for finding in findings:
        print(finding)
    if findings:
        print(f"{len(findings)} to correct; the table of words: tools/words.toml", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
