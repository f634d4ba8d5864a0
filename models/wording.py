"""Wording of messages. No torch."""

from __future__ import annotations

import logging
import re

from models.text import UNSEEN

_SPELLED = re.compile(rf"[\x00-\x1f\x7f-\x9f{UNSEEN}]")
"""Control characters, what else begins a line, and what nobody sees."""


def plural(count: int, noun: str, nouns: str = "") -> str:
    """A count with its noun: "1 cluster", "2 clusters"; nouns: an irregular plural."""
    return f"{count} {noun if count == 1 else nouns or f'{noun}s'}"


def one_line(text: str) -> str:
    """A text with its control and unseen characters spelled out, as in "a\\nb.jpg".

    Names may hold any: they would break a line in two, command a terminal, or look alike.
    """
    return _SPELLED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


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
