"""Break the code on purpose, one place at a time, and see whether a test notices.

python -m tools.mutants [--seed N] [--count N] [--module PATH ...] [--limit SECONDS] [--stages N]
                        [--out FOLDER]

Faults are drawn by the seed, in turn from every room, and put into a copy of the tree, one at a
time. For each, tests run until one fails: first those that mirror the module, then those that name
it, then those that FURTHER and PROCESSES list. A fault that none of them notices survives: add a
test, or an entry with the reason to tools/mutants_equivalent.toml where no test can tell the two
apart.

Results are kept in FOLDER/mutants.jsonl, and a fault that is in there is not run again as long as
its line and the tests of its first stage are the same; the table goes to FOLDER/mutants.md.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import multiprocessing
import os
import random
import re
import signal
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import NoReturn

import pytest

from tools.mutation import Fault, faults, modules
from tools.source_tree import ROOT, copy_source

ROOMS = (
    "adapt", "adapt/clustering", "adapt/data", "adapt/evaluation", "adapt/losses", "adapt/methods",
    "adapt/recipes", "adapt/report", "adapt/runs", "adapt/runtime", "adapt/synthetic",
    "adapt/training", "adapt/workflows", "cli", "models", "service", "service/embedding",
    "service/gallery", "service/jobs", "service/operations", "service/rollover", "service/rpc",
    "service/store",
)  # fmt: skip
"""Folders whose modules are broken in turn: each module is in the nearest of them."""

RECORDS = "tests/contract/test_records_are_frozen.py"

FURTHER = {
    "adapt/data": ["tests/adapt/data"],
    "adapt/report": ["tests/adapt/report"],
    "adapt/runs": ["tests/adapt/runs", RECORDS],
    "adapt/synthetic": ["tests/adapt/synthetic"],
    "adapt/training": ["tests/adapt/training", "tests/adapt/methods"],
    "cli": ["tests/cli"],
    "models": ["tests/models", RECORDS],
    "service/gallery": ["tests/service/gallery"],
    "service/jobs": ["tests/service/jobs", "tests/service/test_app.py"],
    "service/operations": ["tests/service/test_app.py"],
    "service/rollover": ["tests/service/rollover", "tests/service/rpc"],
    "service/rpc": ["tests/service/rpc", "tests/e2e/test_serving.py"],
    "service/store": ["tests/service/store", "tests/service/gallery"],
}
"""Room -> tests that use it, for faults that neither the mirror nor those by name notice."""

PROCESSES = {
    "adapt": ["tests/adapt/workflows/test_job.py"],
    "cli": ["tests/e2e/test_commands.py"],
}
"""Room -> tests that start its commands, for faults that no test within a process notices."""

FORKS = multiprocessing.get_context("forkserver")
"""Tests run in forks of a process that has imported what takes seconds."""

FORKS.set_forkserver_preload(
    ["pytest", "cv2", "faiss", "grpc", "hypothesis", "onnx", "onnxruntime", "pydantic",
     "pytest_asyncio", "sklearn", "sqlalchemy", "torch", "typer", "xdist"]
)  # fmt: skip

EQUIVALENT = Path(__file__).with_name("mutants_equivalent.toml")


@dataclass(frozen=True)
class Result:
    """What became of one fault."""

    key: str
    path: str
    line: int
    operator: str
    before: str
    after: str
    outcome: str
    """`caught`, `timeout` (the tests hang: noticed, too), `survived` or `equivalent`."""
    by: str
    """The test that failed, or the reason of an equivalent."""
    tests: str
    """SHA-256 of the tests of the first stage."""


def draw(root: Path, rooms: Sequence[str], seed: int) -> Iterator[Fault]:
    """All faults: from each room in turn, there from each module in turn, there of each operator.

    A module's faults depend on the seed and on that module only.
    """
    waiting = []
    for room, paths in modules(root, tuple(rooms)).items():
        order = random.Random(f"{seed} {room}")
        queues = []
        for path in order.sample(paths, len(paths)):
            queues.append(_shuffled(f"{seed} {path}", faults(path, (root / path).read_bytes())))
        waiting.append(_in_turn(queues))
    return _in_turn(waiting)


def _shuffled(seed: str, found: Sequence[Fault]) -> Iterator[Fault]:
    """Faults in an order of chance, each operator in turn: most faults are changed constants."""
    chance = random.Random(seed)
    of_operator: dict[str, list[Fault]] = {}
    for fault in chance.sample(found, len(found)):
        of_operator.setdefault(fault.operator, []).append(fault)
    return _in_turn([iter(queue) for queue in of_operator.values()])


def _in_turn(sources: Iterable[Iterator[Fault]]) -> Iterator[Fault]:
    left = list(sources)
    while left:
        for source in list(left):
            fault = next(source, None)
            if fault is None:
                left.remove(source)
            else:
                yield fault


def mirror(path: str) -> str:
    """The test that mirrors a module."""
    module = Path(path)
    return (Path("tests") / module.parent / f"test_{module.stem}.py").as_posix()


def stages(root: Path, path: str) -> list[list[str]]:
    """Tests for a module, nearest first: its mirror, those that name it, FURTHER, PROCESSES.

    Each stage has paths relative to `root`, none of them twice; stages without tests are left out.
    """
    module = Path(path)
    dotted = ".".join(module.with_suffix("").parts).removesuffix(".__init__")
    named = re.compile(rf"\b{re.escape(dotted)}\b")
    tests = sorted((root / "tests").rglob("test_*.py"))
    room = max((room for room in ROOMS if module.is_relative_to(room)), key=len, default=path)
    naming = [t.relative_to(root) for t in tests if named.search(t.read_text(encoding="utf-8"))]
    last = [Path(name) for name in PROCESSES.get(room, [])]
    wanted = [
        [Path(mirror(path))],
        [test for test in naming if test not in last],
        [Path(name) for name in FURTHER.get(room, [])],
        last,
    ]
    seen: set[Path] = set()
    chosen = []
    for stage in wanted:
        new = [test for test in stage if test not in seen and (root / test).exists()]
        seen.update(new)
        if new:
            chosen.append([test.as_posix() for test in new])
    return chosen


class Tree:
    """A copy of the source tree in which the faults are made, and its tests."""

    def __init__(self, root: Path, limit_s: float, count: int | None = None) -> None:
        self.root = root
        self._limit_s = limit_s
        self._stages = count
        first = FORKS.Process(target=_nothing)  # imports, which no limit counts
        first.start()
        first.join()
        self._environment = {
            "PYTHONPATH": str(root),  # for the processes that the tests start
            # Compiled files are told apart by size and second, which a fault may leave as they are.
            "PYTHONDONTWRITEBYTECODE": "1",
            "NUMBA_CACHE_DIR": str(root / ".numba"),
            "OMP_NUM_THREADS": "1",
        }

    def run(self, tests: Sequence[str], *options: str) -> tuple[str, str]:
        """Run tests up to the first that fails.

        Returns:
            `passed` and "", `failed` and the test's name, or `timeout` and "".

        Raises:
            RuntimeError: pytest itself did not work, or there is no test.
        """
        said = self.root / ".said.txt"
        # pytest may itself be a test of a run whose coverage is measured.
        plugins = [word for name in ("cacheprovider", "slipcover") for word in ("-p", f"no:{name}")]
        arguments = ["-x", "-q", *plugins, *options, *tests]
        process = FORKS.Process(
            target=_pytest, args=(self.root, self._environment, arguments, said)
        )
        process.start()
        process.join(self._limit_s)
        code = process.exitcode
        assert process.pid is not None  # noqa: S101
        with suppress(ProcessLookupError):  # all that the tests started has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        if code is None:
            return "timeout", ""
        if code in (0, NO_TESTS):
            return "passed", ""
        text = said.read_text(errors="replace")
        failed = re.search(r"^(?:FAILED|ERROR) ([^\s\[]+)", text, re.MULTILINE)
        if failed is None:
            if code < 0 or "Fatal Python error" in text:  # a crash of the interpreter
                return "failed", tests[0]
            raise RuntimeError(f"pytest ended with {code}: {text[-2000:]}")
        return "failed", failed[1]

    def judge(self, fault: Fault) -> tuple[str, str]:
        """Make a fault, run its tests, and undo it; gives outcome and the test that noticed."""
        file = self.root / fault.path
        source = file.read_bytes()
        try:
            file.write_bytes(fault.apply(source))
            for tests in stages(self.root, fault.path)[: self._stages]:
                # The tests that mirror a module all count, and those that start processes; of the
                # others those that are quick.
                all_count = tests in ([mirror(fault.path)], *PROCESSES.values())
                options = () if all_count else ("-m", "not slow")
                ended, by = self.run(tests, *options)
                # Tests that fail, or take too long, without the fault as well say nothing of it.
                if ended == "failed" and self._pass_without(fault, source, [by]):
                    return "caught", by
                if ended == "timeout" and self._pass_without(fault, source, tests, *options):
                    return "timeout", " ".join(tests)
        finally:
            file.write_bytes(source)
        return "survived", ""

    def _pass_without(
        self, fault: Fault, source: bytes, tests: Sequence[str], *options: str
    ) -> bool:
        file = self.root / fault.path
        try:
            file.write_bytes(source)
            return self.run(tests, *options)[0] == "passed"
        finally:
            file.write_bytes(fault.apply(source))


NO_TESTS = 5
"""pytest's exit code where no test was selected."""


def _nothing() -> None:
    """A fork that only waits until there can be one."""


def _pytest(
    root: Path, environment: dict[str, str], arguments: Sequence[str], said: Path
) -> NoReturn:
    """Run pytest in this process, a fork that has the slow imports done; its exit code is ours."""
    os.setsid()  # so that all that the tests start can be ended
    os.chdir(root)
    os.environ.update(environment)
    sys.path.insert(0, str(root))
    with said.open("wb") as out:
        os.dup2(out.fileno(), sys.stdout.fileno())
        os.dup2(out.fileno(), sys.stderr.fileno())
    gc.freeze()  # pytest collects garbage twice, and need not look through the imports
    code = pytest.main(list(arguments))
    sys.stdout.flush()
    os._exit(code)


def equivalents(file: Path) -> dict[str, str]:
    """Key of a fault -> why no test can notice it."""
    entries = tomllib.loads(file.read_text(encoding="utf-8")).get("equivalent", [])
    return {entry["fault"]: entry["reason"] for entry in entries}


def tests_digest(root: Path, path: str) -> str:
    """SHA-256 of the tests of a module's first stage."""
    digest = hashlib.sha256()
    for name in (stages(root, path) or [[]])[0]:
        place = root / name
        for file in [place] if place.is_file() else sorted(place.rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def known_results(file: Path) -> dict[str, Result]:
    """Key -> result, of an earlier run."""
    if not file.exists():
        return {}
    lines = file.read_text(encoding="utf-8").splitlines()
    return {result.key: result for result in (Result(**json.loads(line)) for line in lines)}


def run(
    root: Path,
    chosen: Iterable[Fault],
    known: dict[str, Result],
    reasons: dict[str, str],
    limit_s: float,
    count: int | None = None,
) -> Iterator[Result]:
    """Results of faults of `root`, in their order; those that are known are not run again.

    limit_s: of one stage of tests, in seconds. count: how many stages, all if None.
    """
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        copy_source(root, Path(name) / "tree")
        tree = Tree(Path(name) / "tree", limit_s, count)
        for fault in chosen:
            tests = tests_digest(root, fault.path)
            before = known.get(fault.key)
            if fault.key in reasons:
                outcome, by = "equivalent", reasons[fault.key]
            elif before and before.tests == tests and before.outcome != "survived":
                outcome, by = before.outcome, before.by
            else:
                outcome, by = tree.judge(fault)
            yield Result(
                key=fault.key,
                path=fault.path,
                line=fault.line,
                operator=fault.operator,
                before=fault.before,
                after=fault.after,
                outcome=outcome,
                by=by,
                tests=tests,
            )


def table(results: Sequence[Result]) -> str:
    """The results as Markdown: a line of counts, then one row each, survivors first."""
    counts = Counter(result.outcome for result in results)
    said = ", ".join(f"{number} {outcome}" for outcome, number in sorted(counts.items()))
    rows = [
        f"{len(results)} faults: {said}.",
        "",
        "| place | fault | before | after | outcome | by |",
        "|---|---|---|---|---|---|",
    ]
    for result in sorted(results, key=lambda r: (r.outcome != "survived", r.path, r.line)):
        place = f"{result.path}:{result.line}"
        cells = [place, result.operator, f"`{_short(result.before)}`", f"`{_short(result.after)}`"]
        cells += [result.outcome, result.by.rpartition("/")[2]]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def main() -> int:
    """Run the command line; returns 1 if a fault survived."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=72, help="how many faults")
    parser.add_argument("--module", action="append", help="only this file or folder; repeatable")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for a stage of tests")
    parser.add_argument("--stages", type=int, help="how many stages of tests; default: all")
    parser.add_argument("--out", type=Path, default=ROOT / "mutants-out")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    drawn = draw(ROOT, ROOMS, options.seed)
    if options.module:
        drawn = (f for f in drawn if any(Path(f.path).is_relative_to(m) for m in options.module))
    file = options.out / "mutants.jsonl"
    known = known_results(file)
    results = []
    with file.open("a", encoding="utf-8") as out:
        chosen = islice(drawn, options.count)
        for result in run(
            ROOT, chosen, known, equivalents(EQUIVALENT), options.limit, options.stages
        ):
            results.append(result)
            out.write(json.dumps(asdict(result)) + "\n")
            out.flush()
            print(f"{result.outcome:10} {result.key}  {result.by}", flush=True)
    (options.out / "mutants.md").write_text(table(results), encoding="utf-8")
    survived = sum(result.outcome == "survived" for result in results)
    print(f"{len(results)} faults, {survived} survived: {options.out / 'mutants.md'}")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
