"""Times in the store and the index: whole microseconds since 1970 UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_us(moment: datetime) -> int:
    """Microseconds since 1970 UTC of an aware datetime."""
    return (moment - _EPOCH) // _MICROSECOND


def from_us(microseconds: int) -> datetime:
    """Aware UTC datetime of microseconds since 1970 UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)


FIRST_US = to_us(datetime.min.replace(tzinfo=UTC))
"""The first time that `from_us` can give."""

LAST_US = to_us(datetime.max.replace(tzinfo=UTC))
"""The last time that `from_us` can give."""
