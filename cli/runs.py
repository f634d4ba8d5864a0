"""Commands about run folders: runs list, runs show, runs compare.

torch is imported inside the commands: the rest of `resight` runs without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import AsJson, plural, print_json, short_time, table, tell

if TYPE_CHECKING:
    from adapt.runs.listing import RunLine

_runs = typer.Typer(
    help="Inspect run folders.", no_args_is_help=True, pretty_exceptions_enable=False
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the application."""
    app.add_typer(_runs, name="runs")


_SHORT = 12
"""Characters of a sha256 in a table."""


@_runs.command("list")
def list_runs(
    folder: Annotated[Path, typer.Argument(help="Folder that contains run folders.")],
    as_json: AsJson = False,
) -> None:
    """List the run folders one or two levels below a folder.

    A folder that cannot be read is a line, too; why is said below the table.
    """
    from adapt.runs import listing

    lines = listing.list_runs(folder)
    if as_json:
        print_json([_line_json(line) for line in lines])
        return
    header = (
        "run",
        "state",
        "reason",
        "method",
        "recipe",
        "rounds",
        "clusters",
        "minutes",
        "started",
    )
    typer.echo(table(header, [_line_row(line) for line in lines], right=(5, 6, 7)))
    for line in lines:
        if line.problem:
            tell(f"{line.name}: {line.problem}")


@_runs.command("show")
def show_run(
    run: Annotated[Path, typer.Argument(help="Run folder.")], as_json: AsJson = False
) -> None:
    """Say what one run was, how it ended and what its last round gave."""
    from adapt.runs.folder import Run
    from adapt.runs.listing import describe_run, last_figures

    opened = Run.open(run)
    line, info, rounds = describe_run(run, str(run)), opened.info, opened.metrics()
    if as_json:
        print_json(
            {
                **_line_json(line),
                "error": info.error,
                "data": [d.model_dump(mode="json", exclude={"dropped"}) for d in info.data],
                "camera_pattern": info.spec.camera_pattern,
                "hold_back": info.spec.hold_back,
                "can_continue": opened.can_continue,
                "last_round": last_figures(rounds),
                "weights": info.spec.weights,
                "origin": info.origin.model_dump(mode="json"),
                "preprocessing": info.preprocessing.model_dump(mode="json"),
            }
        )
        return
    ended = " ".join(filter(None, (line.state, line.reason, info.error)))
    size, spec = info.preprocessing, info.spec
    rows = [
        ("state", ended),
        ("resume with", f"resight {info.kind} --resume {run}" if opened.can_continue else ""),
        ("method", info.method),
        ("recipe", spec.recipe_name),
        ("network", f"{info.backbone}, {size.height}x{size.width}"),
        ("decoder", size.decoder),
        ("weights", spec.weights or ""),
        ("sha256", info.origin.weights[:_SHORT]),
        ("seed", str(spec.seed)),
        ("rounds", _rounds(line)),
        ("minutes", f"{line.minutes:.1f}"),
        ("started", short_time(info.started)),
        *(
            (d.role, f"{plural(d.crops, 'crop')} of {plural(len(d.cameras), 'camera')}, {d.root}")
            for d in info.data
        ),
        ("camera pattern", spec.camera_pattern or ""),
        ("held back", f"{spec.hold_back:.0%} of the crops" if spec.hold_back else ""),
        *((name, f"{value:.4g}") for name, value in last_figures(rounds).items()),
    ]  # fmt: skip
    typer.echo(_names_and_values(rows))
    for text in rounds[-1]["warnings"] if rounds else ():
        typer.echo(f"warning in the last round: {text}")


@_runs.command("compare")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders.")],
    as_json: AsJson = False,
) -> None:
    """Show what differs between runs: recipe, crops, figures of the last round."""
    from adapt.runs.listing import compare_runs

    found = compare_runs(runs)
    if as_json:
        print_json(asdict(found))
        return
    names = tuple(run.name for run in runs)
    if len(set(names)) < len(names):
        names = found.runs
    typer.echo(_columns("setting that differs", names, found.settings))
    typer.echo()
    for role, same in found.data.items():
        typer.echo(f"{role} crops: {same}")
    typer.echo()
    typer.echo(_columns("last round", names, found.figures))


def _columns(title: str, names: tuple[str, ...], rows: Mapping[str, Sequence[object]]) -> str:
    if not rows:
        return f"{title}: none"
    cells = [(name, *map(_cell, values)) for name, values in rows.items()]
    return table((title, *names), cells, right=range(1, len(names) + 1))


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "none"
    return str(value)


def _names_and_values(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows if value)


def _rounds(line: RunLine) -> str:
    return f"{line.rounds}/{line.planned}" if line.planned else str(line.rounds)


def _line_row(line: RunLine) -> tuple[str, ...]:
    if line.problem:
        return (line.name, line.state, *[""] * 7)
    return (
        line.name,
        line.state,
        line.reason,
        line.method,
        line.recipe,
        _rounds(line),
        "+".join(map(str, line.clusters)),
        f"{line.minutes:.1f}",
        "" if line.started is None else short_time(line.started),
    )


def _line_json(line: RunLine) -> dict[str, object]:
    started = None if line.started is None else line.started.isoformat()
    return {**asdict(line), "started": started}
