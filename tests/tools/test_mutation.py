"""Each kind of fault, and what is left alone."""

from __future__ import annotations

import pytest

from tools.mutation import faults


def changes(source: str) -> set[tuple[str, str, str]]:
    """(operator, before, after) of all faults of a source text."""
    return {
        (fault.operator, fault.before, fault.after)
        for fault in faults("module.py", source.encode())
    }


@pytest.mark.parametrize(
    ("source", "operator", "before", "after"),
    [
        ("a < b", "comparison flipped", "a < b", "(a <= b)"),
        ("a == b", "comparison flipped", "a == b", "(a != b)"),
        ("a not in b", "comparison flipped", "a not in b", "(a in b)"),
        ("a + b", "arithmetic swapped", "a + b", "(a - b)"),
        ("a * b", "arithmetic swapped", "a * b", "(a / b)"),
        ("a += b", "arithmetic swapped", "a += b", "a -= b"),
        ("a and b", "and, or swapped", "a and b", "(a or b)"),
        ("not a", "not removed", "not a", "(a)"),
        ("x = 3", "constant changed", "3", "(4)"),
        ("x = True", "constant changed", "True", "(False)"),
        ("if a: b", "condition negated", "a", "(not (a))"),
        ("a if b else c", "condition negated", "a if b else c", "(c if b else a)"),
        ("def f(): return a", "return value replaced", "return a", "return None"),
        ("raise E", "raise removed", "raise E", "pass"),
        ("f(a)", "statement deleted", "f(a)", "pass"),
        ("min(a, b)", "min, max and the like swapped", "min(a, b)", "(max(a, b))"),
        ("a.argmax(0)", "min, max and the like swapped", "a.argmax(0)", "(a.argmin(0))"),
        ("x = a.detach()", "detach removed", "a.detach()", "(a)"),
        ("a[i:]", "slice off by one", "i", "(i) + 1"),
        ("a[:n]", "slice off by one", "n", "(n) + 1"),
    ],
)
def test_kinds(source: str, operator: str, before: str, after: str) -> None:
    assert (operator, before, after) in changes(source)


@pytest.mark.parametrize(
    "source",
    [
        '"""A docstring."""',
        "log.warning(text)",
        "def f(a: 'int | None', b: Literal[3]) -> Literal[4]: ...",
        "@cache(size)\ndef f(): return",
        "def f(): return None",
        "if TYPE_CHECKING:\n    import a",
        "text = 'a' + b",
        "text = f'{a + 1}'",
        "await f(a)",
    ],
)
def test_what_no_test_should_notice_is_left_alone(source: str) -> None:
    assert changes(source) == set()


def test_only_the_faulty_text_changes() -> None:
    source = "naïve = 'ä'; x = a < b  # ü\ny = 2\n".encode()
    found = [fault for fault in faults("m.py", source) if fault.operator == "comparison flipped"]
    assert [fault.apply(source).decode() for fault in found] == [
        "naïve = 'ä'; x = (a <= b)  # ü\ny = 2\n"
    ]
    assert found[0].line == 1


def test_a_key_stays_when_lines_move() -> None:
    (before,) = faults("m.py", b"x = 1\n")
    (after,) = faults("m.py", b"\n\nx = 1\n")
    assert before.key == after.key
    assert (before.line, after.line) == (1, 3)
