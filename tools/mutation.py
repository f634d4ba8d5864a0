"""Faults for Python source: each is one small change that a test should notice.

A fault replaces the text of one syntax node; all other text of the file stays as it is. Left out is
what no test could or should notice: annotations, docstrings, decorators, log messages, and blocks
for type checkers.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_OTHER: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip

_OTHER_NAME = {
    "min": "max", "max": "min", "argmin": "argmax", "argmax": "argmin", "any": "all", "all": "any",
    "minimum": "maximum", "maximum": "minimum", "ones": "zeros", "zeros": "ones",
    "commit": "rollback", "union": "intersection",
}  # fmt: skip

_LOGGERS = {"log", "logger", "logging", "warnings"}


@dataclass(frozen=True)
class Fault:
    """One change of one file."""

    path: str
    """Relative to the root, with `/`."""
    line: int
    """From 1: where the changed text begins."""
    operator: str
    before: str
    """The text that is replaced, in one line."""
    after: str
    code: str
    """The line of source on which it begins, without blanks at its ends."""
    begin: int
    """Offset of the replaced bytes in the UTF-8 file."""
    end: int

    @property
    def key(self) -> str:
        """Names this fault as long as its line stays as it is, wherever the line moves to."""
        return f"{self.path} | {self.operator} | {self.code} | {self.before} -> {self.after}"

    def apply(self, source: bytes) -> bytes:
        """The file's bytes with the fault in them."""
        return source[: self.begin] + self.after.encode() + source[self.end :]


def faults(path: str, source: bytes) -> list[Fault]:
    """All faults that a file can have, in the order of the file.

    path: relative to the root, with `/`; goes into the faults only.

    Raises:
        SyntaxError: the file is not Python.
    """
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    found = []
    for node, operator, after in _changes(ast.parse(source)):
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        before = source[begin:end].decode()
        code = lines[node.lineno - 1].decode().strip()
        one_line = " ".join(before.split())
        found.append(Fault(path, node.lineno, operator, one_line, after, code, begin, end))
    return sorted(found, key=lambda fault: (fault.begin, fault.operator, fault.after))


def modules(root: Path, rooms: tuple[str, ...]) -> dict[str, list[str]]:
    """Room -> paths of its Python files relative to `root`, generated code left out.

    Files of a room inside another one, e.g. `adapt/data` in `adapt`, belong to the inner room only.
    """
    found = {}
    for room in rooms:
        inner = [root / each for each in rooms if each.startswith(f"{room}/")]
        found[room] = [
            path.relative_to(root).as_posix()
            for path in sorted((root / room).rglob("*.py"))
            if "pb" not in path.parts and not any(map(path.is_relative_to, inner))
        ]
    return found


_Located = ast.expr | ast.stmt


def _changes(tree: ast.Module) -> Iterator[tuple[_Located, str, str]]:
    """(node, operator, the text that replaces it)."""
    for node in _visited(tree):
        if isinstance(node, ast.expr):
            for operator, changed in _of_expression(node):
                yield node, operator, f"({ast.unparse(changed)})"
            yield from _of_parts(node)
        elif isinstance(node, ast.If | ast.While):
            yield node.test, "condition negated", f"(not ({ast.unparse(node.test)}))"
        elif isinstance(node, ast.Return) and not _is_none(node.value):
            yield node, "return value replaced", "return None"
        elif isinstance(node, ast.Raise):
            yield node, "raise removed", "pass"
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield node, "statement deleted", "pass"
        elif isinstance(node, ast.AugAssign) and type(node.op) in _OTHER:
            changed_statement = copy.deepcopy(node)
            changed_statement.op = _OTHER[type(node.op)]()  # type: ignore[assignment]
            yield node, "arithmetic swapped", ast.unparse(changed_statement)


def _of_expression(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    changed = copy.deepcopy(node)
    if isinstance(changed, ast.Compare) and type(changed.ops[0]) in _OTHER:
        changed.ops[0] = _OTHER[type(changed.ops[0])]()  # type: ignore[call-overload]
        yield "comparison flipped", changed
    elif isinstance(changed, ast.BinOp) and type(changed.op) in _OTHER:
        if not _is_text(changed.left) and not _is_text(changed.right):
            changed.op = _OTHER[type(changed.op)]()  # type: ignore[assignment]
            yield "arithmetic swapped", changed
    elif isinstance(changed, ast.BoolOp):
        changed.op = _OTHER[type(changed.op)]()  # type: ignore[assignment]
        yield "and, or swapped", changed
    elif isinstance(changed, ast.UnaryOp) and isinstance(changed.op, ast.Not):
        yield "not removed", changed.operand
    elif isinstance(changed, ast.IfExp):
        changed.body, changed.orelse = changed.orelse, changed.body
        yield "condition negated", changed
    elif isinstance(changed, ast.Constant):
        if isinstance(changed.value, bool):
            yield "constant changed", ast.Constant(not changed.value)
        elif isinstance(changed.value, int | float):
            yield "constant changed", ast.Constant(changed.value + 1)
    elif isinstance(changed, ast.Call):
        yield from _of_call(changed)


def _of_call(call: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    function = call.func
    if isinstance(function, ast.Attribute):
        if function.attr in ("detach", "copy", "sort", "lower") and not call.args:
            yield f"{function.attr} removed", function.value
        if function.attr in _OTHER_NAME:
            function.attr = _OTHER_NAME[function.attr]
            yield "min, max and the like swapped", call
    elif isinstance(function, ast.Name) and function.id in _OTHER_NAME:
        function.id = _OTHER_NAME[function.id]
        yield "min, max and the like swapped", call


def _of_parts(node: ast.expr) -> Iterator[tuple[_Located, str, str]]:
    """Changes of the bounds of a slice, which is not an expression with a place of its own."""
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
        for bound in (node.slice.lower, node.slice.upper):
            if bound is not None and not isinstance(bound, ast.Constant):
                yield bound, "slice off by one", f"({ast.unparse(bound)}) + 1"


def _visited(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below `node` that may be changed."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_left_out(child):
                yield child
                yield from _visited(child)


def _is_left_out(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    if isinstance(node, ast.Expr):  # a docstring, or a log message
        value = node.value
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
            owner = value.func.value
            return isinstance(owner, ast.Name) and owner.id in _LOGGERS
        return isinstance(value, ast.Constant)
    return isinstance(node, ast.JoinedStr)  # its nodes have no places before Python 3.12


def _is_none(value: ast.expr | None) -> bool:
    return value is None or (isinstance(value, ast.Constant) and value.value is None)


def _is_text(value: ast.expr) -> bool:
    if isinstance(value, ast.Constant):
        return isinstance(value.value, str | bytes)
    return isinstance(value, ast.JoinedStr)
