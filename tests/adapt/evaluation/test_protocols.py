"""What each gallery image is to a query, by hand; what is refused before anything is embedded."""

from __future__ import annotations

import numpy as np
import pytest

from adapt.errors import DataError
from adapt.evaluation import protocols
from adapt.evaluation.protocols import Labels, ProtocolName, blocks, check_matches, pairs


def labels(ids: list[int], cameras: list[int], crops: list[int] | None = None) -> Labels:
    codes = None if crops is None else np.array(crops)
    return Labels(np.array(ids), np.array(cameras), codes)


QUERY = labels([1], [0], [7])
GALLERY = labels([1, 1, 2, 2, 1], [0, 1, 0, 1, -1], [7, 8, 9, 10, 11])


@pytest.mark.parametrize(
    ("protocol", "match", "aside"),
    [
        ("market", [0, 1, 0, 0, 0], [1, 0, 0, 0, 1]),
        ("other-camera", [0, 1, 0, 0, 0], [1, 0, 1, 0, 1]),
        ("any-camera", [0, 1, 0, 0, 1], [1, 0, 0, 0, 0]),
    ],
)
def test_by_hand(protocol: ProtocolName, match: list[int], aside: list[int]) -> None:
    found = pairs(QUERY, GALLERY, protocol)
    assert [each.astype(int).tolist() for each in found] == [[match], [aside]]


def test_the_last_block_may_hold_the_only_match(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "BLOCK_ENTRIES", 4)
    assert blocks(5, 2) == [slice(0, 2), slice(2, 4), slice(4, 6)]
    query, gallery = labels([1, 1, 1, 1, 2], [0] * 5), labels([1, 2, -1], [0, 1, 1])
    check_matches(query, gallery, "market")
    with pytest.raises(DataError, match="none of 4 queries has a match in another camera among 2 "):
        check_matches(query.part(slice(0, 4)), gallery, "market")
