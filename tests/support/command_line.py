"""`resight` as typed, in this process: a fresh one imports for seconds."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from subprocess import CompletedProcess

import pytest

from cli.main import main


def resight(*arguments: object, **settings: object) -> CompletedProcess[str]:
    """Run a command to its end; settings: RESIGHT_ variables, in lower case.

    An error that the command line does not know is raised: in a process it would be a traceback.
    """
    words = ["resight", *map(str, arguments)]
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in "ab")
    code: object = 0
    with pytest.MonkeyPatch.context() as patch, _fresh_logging():
        patch.setattr(sys, "argv", words)
        for name in [name for name in os.environ if name.startswith("RESIGHT_")]:
            patch.delenv(name)
        for name, value in settings.items():
            patch.setenv(f"RESIGHT_{name.upper()}", str(value))
        with redirect_stdout(out), redirect_stderr(err):
            try:
                main()
            except SystemExit as end:
                code = end.code or 0
    assert isinstance(code, int), code
    texts = (stream.buffer.getvalue().decode() for stream in (out, err))
    return CompletedProcess(words, code, *texts)


@contextmanager
def _fresh_logging() -> Iterator[None]:
    """As in a process of its own, where nobody else listens to the log."""
    root, ours = logging.getLogger(), logging.getLogger("resight")
    before = root.handlers[:], root.level, ours.level
    root.handlers[:] = []
    try:
        yield
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        ours.setLevel(before[2])
