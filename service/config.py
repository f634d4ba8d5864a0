"""Settings of the server: frozen, validated whole, read from RESIGHT_* or given by the caller."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.validation import explain
from service.errors import SettingsError

ENV_PREFIX = "RESIGHT_"

SERVER_VARIABLE = "RESIGHT_SERVER"
"""The variable of the client commands: the server's address."""

CLIENT_CHUNK_ITEMS = 64
"""Most sightings that the client sends in one call; every server accepts as many."""

CLIENT_CHUNK_BYTES = 4_000_000
"""Most bytes of them: below the 4 MiB that gRPC, e.g. a proxy, accepts by default."""

DAY_S = 24 * 3600.0
"""Seconds of a day."""


def split_address(address: str) -> tuple[str, int]:
    """Split "host:port" or "[ipv6]:port"; raises `ValueError`."""
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed):
        raise ValueError(f"{address!r} is not HOST:PORT, like 127.0.0.1:50051 or [::1]:50051")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{address!r} has no port from 0 to 65535 (0: any free one)")
    return host[1:-1] if bracketed else host, int(port)


def join_address(host: str, port: int) -> str:
    """The inverse of `split_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_address(address: str) -> str:
    split_address(address)
    return address


Address = Annotated[str, AfterValidator(_check_address)]


def _refuse_empty(value: object) -> object:
    """Refuse an empty variable: `Path("")` would be the current folder."""
    if value == "":
        raise ValueError("is empty; give a folder, or leave the setting out")
    return value


Folder = Annotated[Path, BeforeValidator(_refuse_empty)]


def _split_folders(value: object) -> object:
    """Folders separated like those of PATH; empty: none."""
    if not isinstance(value, str) or not value:
        return value or ()
    parts = value.split(os.pathsep)
    if "" in parts:
        raise ValueError(
            f"{value!r} has an empty folder between two {os.pathsep!r}, or at an end; name the "
            "folder, or remove the separator"
        )
    return parts


def _check_folders(folders: tuple[Path, ...]) -> tuple[Path, ...]:
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder}; separate several by {os.pathsep!r}")
    return tuple(folder.resolve() for folder in folders)


Folders = Annotated[
    tuple[Path, ...], NoDecode, BeforeValidator(_split_folders), AfterValidator(_check_folders)
]


def default_registry() -> Path:
    """The user's folder of registered models."""
    data_home = os.environ.get("XDG_DATA_HOME")
    return (Path(data_home) if data_home else Path.home() / ".local" / "share") / "resight/models"


class Settings(BaseSettings):
    """All settings of a server. The description of each is its documentation."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="forbid", validate_default=True
    )

    data_dir: Folder = Field(description="Folder of the gallery; made if absent.")
    model: str = Field(
        min_length=1,
        description="Bundle folder, or name[@version] in the registry; a name: its newest version, "
        "refused where the gate's verdict on it is reject, unjudged or damaged.",
    )
    registry: Folder = Field(
        default_factory=default_registry,
        description="Folder of registered models; default: resight/models in $XDG_DATA_HOME "
        "or ~/.local/share.",
    )
    listen: Address = Field(default="127.0.0.1:50051", description="gRPC address, host:port.")
    http: Address = Field(
        default="127.0.0.1:9464", description="Address of /metrics and /healthz, host:port."
    )
    provider: Literal["auto", "cpu", "cuda"] = Field(
        default="auto",
        description="Where the model runs; auto: CUDA if the runtime has it, else CPU.",
    )
    engine_threads: int = Field(
        default=0, ge=0, le=1024, description="Threads of the model on CPU; 0: one per core."
    )
    decode_threads: int = Field(
        default=0, ge=0, le=1024, description="Threads that decode images; 0: one per core."
    )
    search_threads: int = Field(
        default=0, ge=0, le=1024, description="Searches at a time; 0: one per core."
    )
    max_batch: int = Field(
        default=32, ge=1, le=4096, description="Most images in one run of the model."
    )
    max_queue: int = Field(
        default=1024, ge=1, description="Images waiting from which on calls get QUEUE_FULL."
    )
    max_concurrent_calls: int = Field(
        default=256, ge=1, description="Most calls at a time; above, calls get QUEUE_FULL."
    )
    max_connections: int = Field(
        default=1024, ge=1, description="Most gRPC connections at a time; further ones are closed."
    )
    max_streams: int = Field(
        default=64,
        ge=1,
        description="Most watches, most rollovers, and most streams of health and reflection, at a "
        "time; they are not among the calls.",
    )
    max_items: int = Field(
        default=256,
        ge=CLIENT_CHUNK_ITEMS,
        description="Most images, sightings or queries in one call.",
    )
    max_limit: int = Field(default=1000, ge=1, description="Most matches per query.")
    max_message_bytes: int = Field(
        default=16 * 1024 * 1024,
        ge=4 * 1024 * 1024,
        le=2**31 - 1,
        description="Largest request in bytes.",
    )
    max_requests_bytes: int = Field(
        default=0,
        ge=0,
        description="Most bytes of requests with images at a time; 0: 16 of the largest requests.",
    )
    max_answer_bytes: int = Field(
        default=16 * 1024 * 1024,
        ge=1024 * 1024,
        le=2**31 - 1,
        description="Largest answer in bytes; pages end before, searches are refused.",
    )
    max_answers_bytes: int = Field(
        default=0,
        ge=0,
        description="Most bytes of answers that are made or sent at a time; 0: 16 of the largest.",
    )
    max_transfer_s: float = Field(
        default=30.0,
        gt=0,
        le=24 * 3600,
        description="How long a request may take to arrive, and its client to read an answer.",
    )
    max_image_bytes: int = Field(
        default=10 * 1024 * 1024, ge=1024, description="Largest image file in bytes."
    )
    max_image_pixels: int = Field(
        default=2048 * 2048, ge=64, description="Largest height x width of an image."
    )
    keep_crops: bool = Field(
        default=True,
        description="Keep the enrolled images; without them no rollover to another model.",
    )
    request_ttl_s: float = Field(
        default=DAY_S,
        gt=0,
        le=10 * 365 * DAY_S,
        description="How long a request_id is remembered, in seconds; at most ten years.",
    )
    drain_s: float = Field(
        default=10.0,
        ge=0,
        le=DAY_S,
        description="How long running calls may take at shutdown, in seconds; at most a day.",
    )

    adapt_inits: Folders = Field(
        default=(),
        description="Run folders of pre-trained networks that adaptations start from.",
    )
    adapt_sources: Folders = Field(
        default=(),
        description="Folders of labelled crops, for methods that learn from them (DAAL).",
    )
    adapt_device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:[0-9]{1,4})?)$",
        description="Where adaptations compute: auto, cpu, cuda or cuda:N.",
    )
    adapt_hold_back: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="Share of the crops that adaptations do not learn from, for the gate.",
    )
    adapt_stop_s: float = Field(
        default=20.0,
        ge=0,
        le=DAY_S,
        description="How long an adaptation may take to keep its state at shutdown, in seconds; "
        "at most a day.",
    )

    @model_validator(mode="after")
    def _limits_fit_each_other(self) -> Self:
        if self.max_items > self.max_queue:
            raise ValueError(
                f"max_items ({self.max_items}) is above max_queue ({self.max_queue}): "
                "a call of that size would exceed the whole queue"
            )
        if self.max_image_bytes > self.max_message_bytes:
            raise ValueError(
                f"max_image_bytes ({self.max_image_bytes}) is above max_message_bytes "
                f"({self.max_message_bytes}): such an image could never arrive"
            )
        if 0 < self.max_requests_bytes < 2 * self.max_message_bytes:
            raise ValueError(
                f"max_requests_bytes ({self.max_requests_bytes}) is below two times "
                f"max_message_bytes ({self.max_message_bytes}): one client, which may take half, "
                "could never send the largest request"
            )
        if 0 < self.max_answers_bytes < 2 * self.max_answer_bytes:
            raise ValueError(
                f"max_answers_bytes ({self.max_answers_bytes}) is below two times "
                f"max_answer_bytes ({self.max_answer_bytes}): one client, which may take half, "
                "could never get the largest answer"
            )
        return self

    @property
    def answers_bytes(self) -> int:
        """`max_answers_bytes`, or what 0 stands for."""
        return self.max_answers_bytes or 16 * self.max_answer_bytes

    @property
    def requests_bytes(self) -> int:
        """`max_requests_bytes`, or what 0 stands for."""
        return self.max_requests_bytes or 16 * self.max_message_bytes


def load_settings(**given: object) -> Settings:
    """Settings from what is given, then RESIGHT_*, then the defaults; None means not given.

    Raises:
        SettingsError: names the invalid settings; after `models.validation.MAX_FAULTS` it counts.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        faults = explain(error, missing=_how_to_give)
        raise SettingsError(
            f"{faults} (settings come from options and {ENV_PREFIX}* variables)"
        ) from error


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Names that begin like settings but are not, sorted."""
    known = {SERVER_VARIABLE, *(f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields)}
    return sorted(
        name
        for name in environment
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known
    )


def _how_to_give(name: str) -> str:
    return f"is not given: use --{name.replace('_', '-')} or {ENV_PREFIX}{name.upper()}"


def threads_or_cores(threads: int) -> int:
    """The number given, or the cores this process may use for 0."""
    return threads or len(os.sched_getaffinity(0))
