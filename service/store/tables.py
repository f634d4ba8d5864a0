"""The tables of the store. Times are microseconds since 1970 UTC."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

SCHEMA_VERSION = 2

metadata = MetaData()

# SQLite numbers rows on its own only where the type is INTEGER.
_RowId = BigInteger().with_variant(Integer, "sqlite")

schema = Table("schema_version", metadata, Column("version", Integer, primary_key=True))

models = Table(
    "models",
    metadata,
    Column("fingerprint", String(64), primary_key=True),
    Column("reference", String(200), nullable=False),
)

# site: its name; NULL: it is deleted, no caller sees it, and its rows are being wiped. The rows of
# a site have its number, which is never used twice: its name is free at once for another site.
sites = Table(
    "sites",
    metadata,
    Column("number", _RowId, primary_key=True, autoincrement=True),
    Column("site", String(63), unique=True),
    Column("model", ForeignKey("models.fingerprint"), nullable=False),
    Column("created_us", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)


def _of_site(*, primary_key: bool = False, index: bool = False) -> Column[int]:
    """The column with the number of the site."""
    number = ForeignKey("sites.number", ondelete="CASCADE")
    return Column("site", number, nullable=False, primary_key=primary_key, index=index)


sightings = Table(
    "sightings",
    metadata,
    Column("row", _RowId, primary_key=True, autoincrement=True),
    _of_site(),
    Column("sighting", String(128), nullable=False),
    Column("camera", String(128), nullable=False),
    Column("time_us", BigInteger, nullable=False),
    Column("track", String(128), nullable=False),
    Column("person", String(128), nullable=False),
    Column("attributes", JSON, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    UniqueConstraint("site", "sighting"),
    Index("sightings_by_person", "site", "person", "sighting"),
    # Rollovers and adaptations read a site in portions, in the order of its rows.
    Index("sightings_by_row", "site", "row"),
    sqlite_autoincrement=True,
)

crops = Table(
    "crops",
    metadata,
    Column("row", ForeignKey("sightings.row", ondelete="CASCADE"), primary_key=True),
    Column("image", LargeBinary, nullable=False),
)

embeddings = Table(
    "embeddings",
    metadata,
    Column("row", ForeignKey("sightings.row", ondelete="CASCADE"), primary_key=True),
    Column("model", ForeignKey("models.fingerprint"), primary_key=True),
    Column("vector", LargeBinary, nullable=False),
)

# Of which models a site has vectors, or is getting them. unwanted: they are being wiped.
# generation: how often they became wanted again; a pass that wipes them is of one generation.
site_vectors = Table(
    "site_vectors",
    metadata,
    _of_site(primary_key=True),
    Column("model", ForeignKey("models.fingerprint"), primary_key=True),
    Column("unwanted", Boolean, nullable=False),
    Column("generation", Integer, nullable=False),
)

# One row: names of the sightings up to this one are in NFC (service/store/composing.py).
composed = Table(
    "composed",
    metadata,
    Column("row", BigInteger, primary_key=True, autoincrement=False),
)

requests = Table(
    "requests",
    metadata,
    _of_site(primary_key=True),
    Column("request", String(128), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("answer", JSON, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Index("requests_by_time", "created_us"),
)

# The models that a site used, in order; the last row is the one in use. Empty for a site that has
# used one model only.
activations = Table(
    "activations",
    metadata,
    Column("number", _RowId, primary_key=True, autoincrement=True),
    _of_site(index=True),
    Column("model", ForeignKey("models.fingerprint"), nullable=False),
    Column("time_us", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

# number: their order; the clock, and so the ids, may step back. site: its name. model: reference of
# the model that it gave, empty unless it succeeded.
adaptations = Table(
    "adaptations",
    metadata,
    Column("number", _RowId, primary_key=True, autoincrement=True),
    Column("adaptation", String(64), nullable=False, unique=True),
    Column("site", ForeignKey("sites.site", ondelete="CASCADE"), nullable=False, index=True),
    Column("method", String(32), nullable=False),
    Column("recipe", String(64), nullable=False),
    Column("overrides", JSON, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("cancel", Boolean, nullable=False),
    Column("reason", String(64), nullable=False),
    Column("error", String, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("started_us", BigInteger),
    Column("ended_us", BigInteger),
    Column("model", String(200), nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("verdict_reasons", JSON, nullable=False),
    sqlite_autoincrement=True,
)

# Adaptations of deleted sites whose folders are still to be removed, also after a crash.
pending_folder_deletions = Table(
    "leftovers",
    metadata,
    Column("adaptation", String(64), primary_key=True),
)
