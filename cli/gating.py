"""`resight gate`: whether a new model should replace an old one, judged without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import plural, table

if TYPE_CHECKING:
    from adapt.evaluation.gate import GateReport, ProxyComparison

EXIT_CODES = {"promote": 0, "hold": 3, "reject": 4}
"""1 is an error and 2 wrong usage, as everywhere."""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(gate)


def gate(
    old: Annotated[Path, typer.Option(help="Bundle or run folder of the model in use.")],
    new: Annotated[Path, typer.Option(help="Bundle or run folder of the model to judge.")],
    target: Annotated[Path, typer.Option(help="Folder of the site's crops; no labels are read.")],
    hold_back: Annotated[
        float | None,
        typer.Option(help="Judge only by the crops that `adapt --hold-back` left out."),
    ] = None,
    camera_pattern: Annotated[
        str | None,
        typer.Option(help="Regular expression that finds the camera in a crop's path."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File to write figures and verdict to.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the resamples.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Compare two models on a site without labels: promote, hold or reject the new one."""
    from adapt.workflows.gate import GateRequest, run_gate

    if json_file is not None:
        _refuse_loss(json_file)
    report = run_gate(
        GateRequest(old, new, target, hold_back, camera_pattern, seed, device), json_file
    )
    typer.echo(_described(report))
    raise typer.Exit(EXIT_CODES[report.verdict])


def _refuse_loss(file: Path) -> None:
    """Raise DataError where a verdict cannot be written, or would replace something else."""
    from adapt.errors import DataError
    from adapt.report.verdict import read_gate

    if not file.parent.is_dir():
        raise DataError(f"--json {file}: {file.parent} is not a folder; make it first")
    if not file.exists():
        return
    earlier = file.suffix.lower() == ".json" and file.is_file()
    if earlier and file.stat().st_size:
        try:
            read_gate(file)
        except DataError:
            earlier = False
    if not earlier:
        raise DataError(
            f"--json {file} exists and is not a verdict of a gate: give a new file, or an earlier "
            "verdict that ends in .json"
        )


def _described(report: GateReport) -> str:
    lines = []
    if report.comparisons:
        header = ("proxy", "old", "new", "new - old", "interval", "crops", "vote")
        lines.append(table(header, [_row(each) for each in report.comparisons], (1, 2, 3, 5)))
    lines.append(
        f"{plural(report.crops, 'crop')}{_left_out(report)}, "
        f"{report.groups} groups (tracks, and crops without a track)"
    )
    lines.append(f"verdict: {report.verdict}")
    return "\n".join(lines + [f"  {reason}" for reason in report.reasons])


def _left_out(report: GateReport) -> str:
    total = report.crops + report.unreadable + report.not_held_back
    parts = [
        f"{report.unreadable} cannot be read" if report.unreadable else "",
        f"{report.not_held_back} not held back" if report.not_held_back else "",
    ]
    told = ", ".join(filter(None, parts))
    return f" of {total} ({told})" if told else ""


def _row(each: ProxyComparison) -> tuple[str, ...]:
    def figure(value: float | None, form: str = ".3f") -> str:
        return "" if value is None else format(value, form)

    interval = f"{figure(each.low, '+.3f')} to {figure(each.high, '+.3f')}"
    between = interval if each.low is not None and each.low != each.high else ""
    counts = each.voter and each.difference is not None
    cast = {1: "better", -1: "worse", 0: "unclear"}[each.vote] if counts else ""
    difference = figure(each.difference, "+.3f")
    measured = str(each.measured) if each.difference is not None else ""
    return each.name, figure(each.old), figure(each.new), difference, between, measured, cast
