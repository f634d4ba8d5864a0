"""Show that long work continues: a bar on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

log = logging.getLogger("resight")
_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress(
    title: str, total: int, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int], None]]:
    """Give a function to call with the number of items done so far.

    Off a terminal a line is logged every ten seconds, so that quick work stays silent. Nothing is
    shown where the log is silent but for errors. clock: gives seconds.
    """
    if not log.isEnabledFor(logging.WARNING):
        yield lambda done: None
        return
    if sys.stderr.isatty():
        with tqdm(total=total, desc=title, leave=False, file=sys.stderr) as bar:
            yield lambda done: (bar.update(done - bar.n), None)[1]
        return
    last = clock()

    def report(done: int) -> None:
        nonlocal last
        if clock() - last >= _SECONDS_BETWEEN_LINES:
            last = clock()
            log.info("%s: %d of %d", title, done, total)

    yield report
