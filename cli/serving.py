"""Commands that serve and use galleries: serve, site, enroll, search, sighting, models,
adaptations."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.adapting import adaptations
from cli.enrolling import enroll
from cli.registry import RegistryOption, models
from cli.searching import search, sightings
from cli.sites import sites
from service.config import load_settings

if TYPE_CHECKING:
    from service.app import Ready

log = logging.getLogger("resight")


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(serve)
    app.add_typer(sites, name="site")
    app.command()(enroll)
    app.command()(search)
    app.add_typer(sightings, name="sighting")
    app.add_typer(models, name="models")
    app.add_typer(adaptations, name="adaptations")


def serve(
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the galleries; created if absent.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Bundle folder, or NAME@VERSION in the registry, or NAME: its newest version, "
            "refused if its verdict is reject, unjudged or damaged."
        ),
    ] = None,
    listen: Annotated[
        str | None, typer.Option(help="gRPC address; default: 127.0.0.1:50051.")
    ] = None,
    http: Annotated[
        str | None, typer.Option(help="Address of /metrics and /healthz; default: 127.0.0.1:9464.")
    ] = None,
    provider: Annotated[
        Literal["auto", "cpu", "cuda"] | None,
        typer.Option(help="Execution provider of the model; default: auto."),
    ] = None,
    registry: RegistryOption = None,
    keep_crops: Annotated[
        bool | None,
        typer.Option(
            "--keep-crops/--no-keep-crops",
            help="Store enrolled images (default); without them a site cannot change its model.",
        ),
    ] = None,
) -> None:
    """Serve galleries until SIGTERM or Ctrl-C. Every setting can also come from RESIGHT_*."""
    from service.app import run

    settings = load_settings(
        data_dir=data_dir,
        model=model,
        listen=listen,
        http=http,
        provider=provider,
        registry=registry,
        keep_crops=keep_crops,
    )
    run(settings, _announce)


def _announce(ready: Ready) -> None:
    model = ready.model
    device = f"{model.provider}, FALLBACK" if ready.fallback else model.provider
    try:
        print(
            f"ready: grpc {ready.grpc_address}, http {ready.http_address}, model {model.reference} "
            f"({model.dimension}-d, {device}), sites {ready.sites}, sightings {ready.sightings}",
            flush=True,
        )
    except OSError as error:  # who started the server does not listen, but its clients may
        log.warning("the ready line cannot be printed (%s); the server serves", error.strerror)
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # else the exit fails on the same line
