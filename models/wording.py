"""Wording of messages. No torch."""

from __future__ import annotations

import logging
import re

_BREAKS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""Control characters, and what else begins a line."""


def plural(count: int, noun: str, nouns: str = "") -> str:
    """A count with its noun: "1 cluster", "2 clusters"; nouns: an irregular plural."""
    return f"{count} {noun if count == 1 else nouns or f'{noun}s'}"


def one_line(text: str) -> str:
    """A text with its control characters spelled out, as in "a\\nb.jpg".

    Names of files may hold any: they would break a line in two, or command a terminal.
    """
    return _BREAKS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def reason_of(error: Exception) -> str:
    """What is wrong, without Python's own words: of an OSError what the system says, alone."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


class OneLineFormatter(logging.Formatter):
    """Writes each message of a log as one line; a traceback follows as it is."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The line of a record."""
        return one_line(super().formatMessage(record))
