"""The command `resight`."""

from __future__ import annotations

import io
import logging
import sys
from importlib.metadata import version
from typing import Annotated

import typer

import cli.clustering
import cli.demo
import cli.gating
import cli.importing
import cli.reporting
import cli.reproducing
import cli.runs
import cli.serving
import cli.training
from adapt.errors import AdaptError, StoppedError
from cli.common import TRAINING_PACKAGES
from models.errors import ModelError
from models.job_contract import EXIT_CODES
from models.wording import OneLineFormatter, one_line
from service.errors import ServiceError

RUNTIME_PACKAGES = {"faiss", "onnxruntime"}
"""Absent where only `resight[adapt]` is installed."""

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended, as typer gives it: 128 and the number of SIGINT."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
cli.training.register(app)
cli.gating.register(app)
cli.importing.register(app)
cli.reproducing.register(app)
cli.runs.register(app)
cli.reporting.register(app)
cli.clustering.register(app)
cli.serving.register(app)
cli.demo.register(app)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"resight {version('resight')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Person re-identification that adapts itself to each new camera site."""


def main() -> None:
    """Run the command line; docs/cli.md says what goes to stdout and to stderr, and the exit codes.

    A known error is one line on stderr.
    """
    _prepare_streams()
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("interrupted", file=sys.stderr)
        raise
    except StoppedError as error:
        print(one_line(f"stopped: {error}"), file=sys.stderr)
        sys.exit(EXIT_CODES["stopped"])
    except (AdaptError, ModelError, ServiceError) as error:
        print(one_line(f"error: {error}"), file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if error.name in TRAINING_PACKAGES:
            extra = "'resight[adapt]'"
        elif error.name in RUNTIME_PACKAGES:
            extra = "'resight[cpu]' or 'resight[gpu]'"
        else:
            raise
        print(f"error: this command needs {error.name}: pip install {extra}", file=sys.stderr)
        sys.exit(1)


def _prepare_streams() -> None:
    """The log goes to stderr. Names of files that are not text are spelled out on stdout, too."""
    to_stderr = logging.StreamHandler(sys.stderr)
    to_stderr.setFormatter(OneLineFormatter("%(message)s"))
    logging.basicConfig(handlers=[to_stderr])
    logging.getLogger("resight").setLevel(logging.INFO)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
