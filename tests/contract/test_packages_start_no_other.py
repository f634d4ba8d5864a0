"""No package starts another one by name: `python -m cli.main` and the like.

Imports between packages are checked by import-linter, names in strings are not. The only module
that is started by name is `WORKER` of `models.job_contract`. Benchmarks, tools and tests may start
the command line.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("adapt", "cli", "models", "service")

_MODULE = re.compile(rf"({'|'.join(PACKAGES)})(\.\w+)+")
_STARTED = re.compile(rf"-m ({'|'.join(PACKAGES)})\b")


def starts(package: str, source: str) -> Iterator[str]:
    """Names of modules of other packages in the strings of a source, docstrings aside."""
    tree = ast.parse(source)
    prose = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in prose:
            named = _MODULE.fullmatch(node.value) or _STARTED.search(node.value)
            if named and named[1] != package and (named.re is _STARTED or _is_module(named[0])):
                yield node.value
        if isinstance(node, ast.List | ast.Tuple):
            values = [each.value if isinstance(each, ast.Constant) else "" for each in node.elts]
            for option, module in pairwise(values):
                if option == "-m" and module in PACKAGES and module != package:
                    yield f"-m {module}"


def _is_module(name: str) -> bool:
    """Tells modules from other names, as columns of the table `models`."""
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_starts_another_by_name(package: str) -> None:
    found = {
        str(file.relative_to(ROOT)): names
        for file in (ROOT / package).rglob("*.py")
        if (names := list(starts(package, file.read_text())))
    }
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        'run("cli.main", ["gate"])',
        'Popen([sys.executable, "-m", "cli.main"])',
        'Popen([sys.executable, "-m", "adapt", folder])',
        'Popen((python, "-m", "adapt"))',
        'system("python -m adapt train x")',
    ],
)
def test_the_check_sees_a_start(source: str) -> None:
    assert list(starts("service", source))


@pytest.mark.parametrize(
    "source",
    [
        '"""`python -m adapt train FOLDER` is started elsewhere."""',
        'Popen([sys.executable, "-m", "service.jobs.watchdog"])',
        'log = getLogger("resight.jobs")',
        'ForeignKey("models.fingerprint")',
        '"resight[adapt]"',
    ],
)
def test_the_check_sees_no_start_where_there_is_none(source: str) -> None:
    assert list(starts("service", f"x = 1\n{source}")) == []
