"""Which gallery images count for a query: the protocols of `resight evaluate`.

Shape suffixes: Q queries, G gallery images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from adapt.errors import DataError
from models.wording import plural

ProtocolName = Literal["market", "other-camera", "any-camera"]

JUNK = -1
"""Identity of images that count neither for nor against a model (Market-1501 names them -1)."""

UNKNOWN_CAMERA = -1
"""Camera of an image that any camera may have taken."""

MATCH: Mapping[ProtocolName, str] = MappingProxyType(
    {
        "market": "match in another camera",
        "other-camera": "match in another camera",
        "any-camera": "other crop in the gallery",
    }
)
"""What a query needs, in words."""

REMEDY = "--protocol any-camera sets aside the query alone, for sets of one camera or none"

BLOCK_ENTRIES = 4_000_000
"""Pairs of a query and a gallery image looked at at a time."""


@dataclass(frozen=True)
class Labels:
    """What is known of N images, besides how they look.

    ids: (N,) int64 identities, `JUNK` where unknown. cameras: (N,) int64 codes in one numbering
    for queries and gallery, `UNKNOWN_CAMERA`. crops: (N,) codes, alike where two images are one
    crop; None where no protocol asks.
    """

    ids: NDArray[np.int64]
    cameras: NDArray[np.int64]
    crops: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def junk(self) -> int:
        """Images whose person is unknown."""
        return int((self.ids == JUNK).sum())

    @property
    def unknown_cameras(self) -> int:
        """Images of an unknown camera."""
        return int((self.cameras == UNKNOWN_CAMERA).sum())

    def part(self, rows: slice | NDArray[np.bool_]) -> Labels:
        """Of some of the images."""
        crops = None if self.crops is None else self.crops[rows]
        return Labels(self.ids[rows], self.cameras[rows], crops)


def pairs(
    query: Labels, gallery: Labels, protocol: ProtocolName
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """What each gallery image is to each query. gallery: without junk.

    An image of an unknown camera may be of the query's own, and is treated as such.

    Returns:
        (Q, G) matches, and (Q, G) what is set aside, which takes no rank:
            market: images of the query's identity in the query's camera
            other-camera: all in the query's camera
            any-camera: the query itself, and copies of it

    Raises:
        ValueError: the protocol is not known, or its `Labels.crops` are missing.
    """
    same_id = query.ids[:, None] == gallery.ids
    if protocol == "any-camera":
        if query.crops is None or gallery.crops is None:
            raise ValueError("any-camera needs the crops' codes of queries and gallery")
        aside = query.crops[:, None] == gallery.crops
    elif protocol in ("market", "other-camera"):
        aside = query.cameras[:, None] == gallery.cameras
        aside |= (query.cameras == UNKNOWN_CAMERA)[:, None] | (gallery.cameras == UNKNOWN_CAMERA)
        if protocol == "market":
            aside &= same_id
    else:
        known = " or ".join(get_args(ProtocolName))
        raise ValueError(f"protocol must be {known}, got {protocol!r}")
    return same_id & ~aside, aside


def blocks(queries: int, gallery: int) -> list[slice]:
    """Rows of queries to look at at a time."""
    rows = max(1, BLOCK_ENTRIES // max(1, gallery))
    return [slice(start, start + rows) for start in range(0, queries, rows)]


def check_matches(query: Labels, gallery: Labels, protocol: ProtocolName) -> None:
    """Raise DataError where no query has a match under a protocol. gallery: with or without junk.

    Nothing is embedded for it, so a set can be refused before anything is trained.
    """
    gallery = gallery.part(gallery.ids != JUNK)
    for rows in blocks(len(query), len(gallery)):
        if pairs(query.part(rows), gallery, protocol)[0].any():
            return
    raise no_match(query, gallery, protocol)


def no_match(query: Labels, gallery: Labels, protocol: ProtocolName) -> DataError:
    """The error of a set in which no query has a match. gallery: without junk."""
    asked = plural(len(query), "query", "queries")
    if query.junk == len(query):
        return DataError(
            f"{asked}, and all are junk (identity {JUNK}): give queries whose people are known"
        )
    known = query.ids[query.ids != JUNK]
    wanted = (
        f"none of {asked} has a {MATCH[protocol]} among {plural(len(gallery), 'gallery image')} "
        f"under the protocol {protocol}: "
    )
    if not np.isin(known, gallery.ids).any():
        return DataError(
            f"{wanted}queries and gallery share no identity; check how people are numbered in both"
        )
    if protocol == "any-camera":
        return DataError(f"{wanted}each person has one crop; add others of the same people")
    cameras = "no camera is known"
    if (query.unknown_cameras, gallery.unknown_cameras) != (len(query), len(gallery)):
        seen = np.unique(np.concatenate([query.cameras, gallery.cameras]))
        count = int((seen != UNKNOWN_CAMERA).sum())
        cameras = f"they show {plural(count, 'camera')}"
    return DataError(f"{wanted}{cameras}; check the cameras, or give another protocol: {REMEDY}")
