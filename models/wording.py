"""Wording of messages. No torch."""

from __future__ import annotations


def plural(count: int, noun: str, nouns: str = "") -> str:
    """A count with its noun: "1 cluster", "2 clusters"; nouns: an irregular plural."""
    return f"{count} {noun if count == 1 else nouns or f'{noun}s'}"
