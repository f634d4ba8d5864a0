"""The tables of the store. Times are microseconds since 1970 UTC."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
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

SCHEMA_VERSION = 1

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
