"""The values of one text column that sightings of a site have, and those of a filter that none has.

Known values are counted as sightings come and go, so that a search looks none of them up.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from service.types import FILTER_LISTS, SightingFilter, UnknownValues

MAX_TOLD = 10
"""Most values, and most known ones, that are told of one list of a filter."""

MAX_COMPARED = 1000
"""Most known values that an unknown one is compared with, which takes some milliseconds."""

_MAX_RANKED = 3
"""Most unknown values of one list that are compared."""


class KnownValues:
    """Numbers for the values of one text column, and how many sightings have each.

    The empty text, which does not count, is 0.
    """

    def __init__(self, values: Sequence[str] = ()) -> None:
        self._codes = {"": 0}
        self._counts = [0]
        self._distinct = 0
        for value in values:
            self.add(value)

    def __len__(self) -> int:
        """Values that a sighting has."""
        return self._distinct

    def __contains__(self, value: str) -> bool:
        code = self._codes.get(value, 0)
        return code != 0 and self._counts[code] > 0

    def names(self) -> list[str]:
        """Values that a sighting has, in no order."""
        return [value for value, count in self.counts() if value and count]

    def counts(self) -> list[tuple[str, int]]:
        """Each value ever seen with how many sightings have it now, in the order of the numbers."""
        return list(zip(self._codes, self._counts, strict=True))

    def add(self, value: str) -> int:
        """Count a sighting; the number of its value."""
        code = self._codes.setdefault(value, len(self._codes))
        if code == len(self._counts):
            self._counts.append(0)
        if code and not self._counts[code]:
            self._distinct += 1
        self._counts[code] += 1
        return code

    def remove(self, code: int) -> None:
        """Count a sighting no more; code: the number of its value."""
        self._counts[code] -= 1
        if code and not self._counts[code]:
            self._distinct -= 1

    def codes(self, values: Sequence[str]) -> NDArray[np.int32]:
        """Numbers of those values that have one."""
        return np.array([self._codes[v] for v in values if v in self._codes], np.int32)


@dataclass(frozen=True, slots=True)
class Missing:
    """Values in one list of a filter that no sighting has, and what they are compared with.

    known: all that sightings have, empty where there are more than `MAX_COMPARED`.
    """

    field: str
    values: tuple[str, ...]
    known: tuple[str, ...]
    known_count: int

    def told(self) -> UnknownValues:
        """As a caller is told."""
        return UnknownValues(
            field=self.field,
            values=self.values[:MAX_TOLD],
            count=len(self.values),
            known=_closest(self.values[:_MAX_RANKED], self.known),
            known_count=self.known_count,
        )


def missing(wanted: SightingFilter, columns: Mapping[str, KnownValues]) -> list[Missing]:
    """The lists of a filter with values that no sighting has.

    columns: known values by the field of a sighting; at least those of the lists that are not
    empty.
    """
    found = []
    for field, column in FILTER_LISTS.items():
        asked = dict.fromkeys(getattr(wanted, field))
        if not asked:
            continue
        known = columns[column]
        unknown = tuple(value for value in asked if value not in known)
        if unknown:
            names = sorted(known.names()) if len(known) <= MAX_COMPARED else []
            found.append(Missing(field, unknown, tuple(names), len(known)))
    return found


def _alike(value: str, known: Collection[str]) -> list[str]:
    """Those that are like a value, best first, equally good ones by name."""
    found = get_close_matches(value, known, max(len(known), 1))
    return sorted(found, key=lambda name: (-SequenceMatcher(None, name, value).ratio(), name))


@lru_cache(maxsize=16)
def _closest(values: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    """The first `MAX_TOLD` of the known values: those like the values, best first, then others."""
    folded: dict[str, list[str]] = {}
    for name in known:
        folded.setdefault(name.casefold(), []).append(name)
    like = [
        name
        for value in values
        for match in _alike(value.casefold(), folded)
        for name in folded[match]
    ]
    return tuple(dict.fromkeys([*like, *known]))[:MAX_TOLD]
