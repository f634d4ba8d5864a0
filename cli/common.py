"""Options and formatting that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from models.job_contract import METHODS
from models.json_text import json_text
from models.wording import one_line
from models.wording import plural as plural
from service.config import SERVER_VARIABLE, split_address
from service.errors import BadNameError
from service.types import check_site_id

METHOD_HELP = f"{', '.join(METHODS[:-1])} or {METHODS[-1]}."


TRAINING_PACKAGES = {
    "hdbscan", "jinja2", "matplotlib", "numba", "onnx", "safetensors", "scipy", "sklearn", "torch",
}  # fmt: skip
"""Absent where only `resight[cpu]` or `[gpu]` is installed."""


def _site_id(site: str) -> str:
    try:
        return check_site_id(site)
    except BadNameError as error:
        raise typer.BadParameter(str(error)) from error


def _server(address: str) -> str:
    """gRPC takes a port modulo 65536, and connects to whoever listens there."""
    try:
        known = "/" not in address and split_address(address)[1] > 0
    except ValueError:
        known = False
    if not known:
        raise typer.BadParameter(
            f"{address!r} is not HOST:PORT with a port from 1 to 65535, like 127.0.0.1:50051; give "
            "no http:// and no path"
        )
    return address


ServerOption = Annotated[
    str,
    typer.Option(
        help="Address of the server, host:port.", envvar=SERVER_VARIABLE, callback=_server
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]
SiteOption = Annotated[str, typer.Option(help="Name of the site.", callback=_site_id)]
SiteName = Annotated[str, typer.Argument(help="Name of the site.", callback=_site_id)]


def tell(text: str) -> None:
    """Tell people something on stderr, as one line: stdout holds the result alone."""
    typer.echo(one_line(text), err=True)


def print_json(value: object) -> None:
    """Print one JSON value, in ASCII: file names may have bytes that are not text."""
    typer.echo(json_text(value))


def short_time(moment: datetime) -> str:
    """UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Aligned columns below their names, without the empty ones.

    right: columns that are aligned at the right.
    """
    rows = [[one_line(cell) for cell in row] for row in rows]
    columns = [i for i in range(len(header)) if any(row[i] for row in rows)]
    widths = {i: max(len(header[i]), *(len(row[i]) for row in rows)) for i in columns}

    def line(cells: Sequence[str]) -> str:
        aligned = (
            cells[i].rjust(widths[i]) if i in right else cells[i].ljust(widths[i]) for i in columns
        )
        return "  ".join(aligned).rstrip()

    return "\n".join(line([cell or "-" for cell in row]) for row in (header, *rows))
