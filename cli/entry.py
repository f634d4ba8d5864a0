"""Where the command `resight` begins: importing the commands takes seconds, in which Ctrl-C counts.

Nothing but the standard library is imported before.
"""

from __future__ import annotations

import sys


def main() -> None:
    """`cli.main.main`, which Ctrl-C ends in the same way from the first moment on."""
    try:
        from cli.main import main as run

        run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
