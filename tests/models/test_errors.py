from __future__ import annotations

import inspect
import re

from models import errors


def classes() -> dict[str, type[errors.ModelError]]:
    found = inspect.getmembers(errors, inspect.isclass)
    return {name: value for name, value in found if issubclass(value, errors.ModelError)}


def test_the_tree_at_the_top_is_the_tree_of_classes() -> None:
    drawn: dict[str, str] = {}
    stack: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^ *((?:│   )*)(├── |└── )?(\w+Error)\b", line)
        if match:
            depth = len(match[1]) // 4 + (1 if match[2] else 0)
            stack = [*stack[:depth], match[3]]
            drawn[match[3]] = stack[depth - 1] if depth else "Exception"
    actual = {name: value.__bases__[0].__name__ for name, value in classes().items()}
    assert drawn == actual


def test_reasons_are_unique_and_fit_error_info() -> None:
    reasons = [value.reason for value in classes().values()]
    assert len(set(reasons)) == len(reasons)
    assert all(re.fullmatch(r"[A-Z][A-Z0-9_]{1,62}", reason) for reason in reasons)
