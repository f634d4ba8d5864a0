from __future__ import annotations

import re

import service.errors
from service.errors import CallError, ServiceError, call_errors


def _tree(kind: type[Exception]) -> list[type[Exception]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _tree(child))]


def _ours() -> list[type[Exception]]:
    return [kind for kind in _tree(ServiceError) if kind.__module__ == "service.errors"]


def test_the_tree_at_the_top_of_the_file_is_the_tree() -> None:
    drawn: list[str] = []
    parents: list[str] = []
    for line in (service.errors.__doc__ or "").splitlines():
        match = re.match(r"^(?P<lead>[│├└─ ]*)(?P<name>[A-Z]\w+Error)\b", line)
        if match:
            depth = len(match["lead"]) // 4
            parents[depth:] = [match["name"]]
            drawn.append("/".join(parents))
    actual: list[str] = []

    def walk(kind: type[Exception], above: str) -> None:
        path = f"{above}/{kind.__name__}".strip("/")
        actual.append(path)
        for child in kind.__subclasses__():
            if child.__module__ == "service.errors":
                walk(child, path)

    walk(ServiceError, "")
    assert drawn == actual


def test_every_call_error_has_a_reason_of_its_own() -> None:
    leaves = [kind for kind in _ours() if issubclass(kind, CallError) and not kind.__subclasses__()]
    reasons = [kind.reason for kind in leaves]
    assert len(set(reasons)) == len(reasons) > 15
    for reason in reasons:
        assert re.fullmatch(r"[A-Z][A-Z0-9_]{1,62}", reason)


def test_every_reason_gives_its_class() -> None:
    known = call_errors()
    for kind in _ours():
        if issubclass(kind, CallError) and not kind.__subclasses__():
            assert known[kind.reason] is kind
            error = kind("what to do", metadata={"a": "b"}, retry_after_s=1.5)
            assert (str(error), error.metadata, error.retry_after_s) == (
                "what to do",
                {"a": "b"},
                1.5,
            )
