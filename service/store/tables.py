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

sites = Table(
    "sites",
    metadata,
    Column("site", String(63), primary_key=True),
    Column("model", ForeignKey("models.fingerprint"), nullable=False),
    Column("created_us", BigInteger, nullable=False),
)

sightings = Table(
    "sightings",
    metadata,
    Column("row", _RowId, primary_key=True, autoincrement=True),
    Column("site", ForeignKey("sites.site", ondelete="CASCADE"), nullable=False),
    Column("sighting", String(128), nullable=False),
    Column("camera", String(128), nullable=False),
    Column("time_us", BigInteger, nullable=False),
    Column("track", String(128), nullable=False),
    Column("person", String(128), nullable=False),
    Column("attributes", JSON, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    UniqueConstraint("site", "sighting"),
    Index("sightings_by_person", "site", "person", "sighting"),
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

requests = Table(
    "requests",
    metadata,
    Column("site", ForeignKey("sites.site", ondelete="CASCADE"), primary_key=True),
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
    Column("site", ForeignKey("sites.site", ondelete="CASCADE"), nullable=False, index=True),
    Column("model", ForeignKey("models.fingerprint"), nullable=False),
    Column("time_us", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

# model: reference of the model that it gave, empty unless it succeeded.
adaptations = Table(
    "adaptations",
    metadata,
    Column("adaptation", String(64), primary_key=True),
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
)

# Adaptations of deleted sites whose folders are still to be removed, also after a crash.
pending_folder_deletions = Table(
    "leftovers",
    metadata,
    Column("adaptation", String(64), primary_key=True),
)
