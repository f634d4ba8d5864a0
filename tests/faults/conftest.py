"""The service under attack: parts of it in this process, or a server in one of its own."""

from tests.e2e.conftest import eventually, other_bundle, shared_server, start, tiny_bundle
from tests.service.conftest import (
    clock,
    data_dir,
    database,
    make_row,
    metrics,
    new_id,
    open_gallery,
    open_rooms,
    store,
)

__all__ = [
    "clock",
    "data_dir",
    "database",
    "eventually",
    "make_row",
    "metrics",
    "new_id",
    "open_gallery",
    "open_rooms",
    "other_bundle",
    "shared_server",
    "start",
    "store",
    "tiny_bundle",
]
