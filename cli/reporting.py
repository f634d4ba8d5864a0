"""The command `resight report`.

torch is imported inside the command: the rest of `resight` runs without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.common import tell


def register(app: typer.Typer) -> None:
    """Add the command of this module to the application."""
    app.command()(report)


def report(
    run: Annotated[Path, typer.Option(help="Run folder.")],
    target: Annotated[
        Path | None, typer.Option(help="Folder of the site's crops, if it was moved.")
    ] = None,
    old: Annotated[
        Path | None, typer.Option(help="Run folder of the old model, to compare with the new one.")
    ] = None,
    gate: Annotated[
        Path | None, typer.Option(help="JSON file of `gate`, whose verdict is shown first.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="HTML file to write; default: report.html in the run.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Write one HTML page about a run that needs no other file."""
    from adapt.data.decoding.mapped_file import MappedCrops
    from adapt.errors import RunError
    from adapt.report.material import gather
    from adapt.report.page import render
    from adapt.report.run_report import run_page
    from adapt.report.verdict import read_gate
    from adapt.runs.folder import REPORT, Run
    from adapt.runtime.device import pick_device
    from models.files import write_atomically

    opened = Run.open(run)
    file = out or run / REPORT
    _refuse_loss(file)
    verdict = None if gate is None else read_gate(gate)
    before = None if old is None else Run.open(old)
    allocate = MappedCrops(file.parent).allocate
    material = gather(opened, target, before, pick_device(device), allocate)
    page = render(run_page(opened, material, verdict))
    try:
        write_atomically(file, page)
    except OSError as error:
        raise RunError(f"cannot write {file}: {error.strerror}; choose another --out") from None
    tell(f"report of {run}, {len(page) / 1e6:.1f} MB:")
    typer.echo(file)


def _refuse_loss(file: Path) -> None:
    """Raise RunError where a page would replace something else, or lie among a run's files."""
    from adapt.errors import RunError
    from adapt.runs.folder import REPORT, in_run

    if file.exists() and file.suffix.lower() not in (".html", ".htm"):
        raise RunError(f"--out {file} is there and is not a page: give a file that ends in .html")
    run = in_run(file)
    if run is not None and file.resolve() != run / REPORT:
        raise RunError(
            f"--out {file} lies in the run folder {run}, where a page is {REPORT}: leave out "
            "--out, or write elsewhere"
        )
