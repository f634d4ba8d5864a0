"""Run folders in a table: one line for each, two or more side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from adapt.errors import ConfigError, RunError
from adapt.runs.folder import Run

DAMAGED = "damaged"
"""State of a run folder whose run.json or metrics.jsonl cannot be used."""

UNREADABLE = "unreadable"
"""State of a folder of which cannot be told whether it holds runs."""

NOT_LEARNED = ("seconds_", "memory_")
"""Prefixes of figures that depend on the machine and the time: equal runs differ in them."""


@dataclass(frozen=True)
class RunLine:
    """One run in a list.

    name: path below the listed folder. state: `Run.status`, or `DAMAGED` or `UNREADABLE`, with
    `problem` for people and nothing else known. rounds: finished ones of `planned`. clusters: in
    the last round, one number per set of labels. minutes: of the finished part. reason: what it
    stopped on.
    """

    name: str
    state: str
    problem: str = ""
    kind: str = ""
    method: str = ""
    recipe: str = ""
    rounds: int = 0
    planned: int | None = None
    clusters: tuple[int, ...] = ()
    minutes: float = 0.0
    started: datetime | None = None
    reason: str = ""


Same = Literal["the same", "different", "not in every run"]


@dataclass(frozen=True)
class SideBySide:
    """What differs between runs; each tuple has one entry per run, None where a run has no such.

    runs: their folders. settings: values that are not the same in all, of the recipe by dotted
    name. data: role of crops -> how those of the runs compare, by fingerprint. figures: of the
    last round, by name.
    """

    runs: tuple[str, ...]
    settings: Mapping[str, tuple[Any, ...]]
    data: Mapping[str, Same]
    figures: Mapping[str, tuple[float | None, ...]]


def list_runs(folder: Path) -> list[RunLine]:
    """The folder itself, if it is a run, and the runs one or two levels below it, by name.

    A folder below it that cannot be read is a line, too. Raises RunError when `folder` cannot be
    read, or there is none.
    """
    lines = {path: _line(path, folder, problem) for path, problem in _runs_below(folder, levels=2)}
    unreadable = lines.get(folder)
    if unreadable is not None and unreadable.state == UNREADABLE:
        raise RunError(unreadable.problem)
    if not lines:
        raise RunError(f"{folder} holds no run: give a folder that contains --out run folders")
    return [lines[path] for path in sorted(lines)]


def _line(path: Path, folder: Path, problem: str) -> RunLine:
    name = str(path.relative_to(folder))
    if problem:
        return RunLine(name, UNREADABLE, problem=problem)
    return describe_run(path, name)


def _runs_below(folder: Path, levels: int) -> Iterator[tuple[Path, str]]:
    """The folder if it is a run, and those below it, each with why it cannot be read."""
    try:
        is_run = Run.is_at(folder)
        below = [entry for entry in folder.iterdir() if entry.is_dir()] if levels else []
    except OSError as error:
        yield folder, f"{folder} cannot be read: {error.strerror}"
        return
    if is_run:
        yield folder, ""
    for entry in below:
        yield from _runs_below(entry, levels - 1)


def describe_run(path: Path, name: str) -> RunLine:
    """One run as a line; a damaged one is a line, too."""
    try:
        run = Run.open(path)
        state = run.status()
        rounds = run.metrics()
    except RunError as error:
        return RunLine(name, DAMAGED, problem=str(error))
    info = run.info
    return RunLine(
        name=name,
        state=state,
        kind=info.kind,
        method=info.method,
        recipe=info.spec.recipe_name,
        rounds=info.rounds,
        planned=info.planned_rounds,
        clusters=tuple(int(v) for v in series(rounds[-1], "clusters").values()) if rounds else (),
        minutes=(info.seconds or seconds_of(rounds)) / 60,
        started=info.started,
        reason=info.reason,
    )


def seconds_of(rounds: Sequence[Mapping[str, Any]]) -> float:
    """Seconds that the rounds took, all stages together."""
    return float(sum(v for row in rounds for k, v in row.items() if k.startswith("seconds_")))


def series(row: Mapping[str, Any], name: str) -> dict[str, float]:
    """A figure of a round, or `name_1`, `name_2`, ... where there are several sets of labels."""
    numbered = {f"{name}_{i}" for i in range(1, 100)}
    return {key: float(row[key]) for key in row if key == name or key in numbered}


def last_figures(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The numbers of the last round by name."""
    if not rounds:
        return {}
    return {
        name: float(value)
        for name, value in rounds[-1].items()
        if isinstance(value, int | float) and name != "round"
    }


def compare_runs(paths: Sequence[Path]) -> SideBySide:
    """What differs between two or more runs.

    Raises ConfigError when fewer are given, RunError when one cannot be read.
    """
    if len(paths) < 2:
        raise ConfigError("give two or more run folders to compare")
    runs = [Run.open(path) for path in paths]
    settings = _side_by_side([_settings(run) for run in runs])
    return SideBySide(
        runs=tuple(map(str, paths)),
        settings={k: v for k, v in settings.items() if any(each != v[0] for each in v)},
        data={role: same for role in _ROLES if (same := _same_data(runs, role))},
        figures=_side_by_side([last_figures(r.metrics()) for r in runs]),
    )


_ROLES = ("target", "source", "validation")


def _settings(run: Run) -> dict[str, Any]:
    info, spec = run.info, run.info.spec
    return {
        "state": run.status(),
        "rounds done": info.rounds,
        "seed": spec.seed,
        "backbone": info.backbone,
        "height x width": f"{info.preprocessing.height}x{info.preprocessing.width}",
        "init": tuple(print_[:12] for print_ in info.origin.inits),
        "camera pattern": spec.camera_pattern,
        "held back": spec.hold_back,
        "recipe": spec.recipe_name,
        **(
            {}
            if info.kind == "import"
            else flatten(spec.recipe.model_dump(mode="json", exclude={"source"}))
        ),
    }


def _same_data(runs: Sequence[Run], role: str) -> Same | None:
    prints = [{d.fingerprint for d in run.info.data if d.role == role} for run in runs]
    if not any(prints):
        return None
    if not all(prints):
        return "not in every run"
    return "the same" if all(each == prints[0] for each in prints) else "different"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings by dotted name."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        leaves |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return leaves


def _side_by_side(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: tuple(row.get(name) for row in rows) for name in names}
