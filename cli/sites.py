"""Commands on sites."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

from adapt.runtime.progress import progress
from cli.common import AsJson, ServerOption, SiteName, plural, print_json, short_time, table, tell
from service.client import DEFAULT_SERVER, CallFailedError, ClientError, ResightClient
from service.types import CameraSummary, RolloverProgress, Site

DropUnusable = Annotated[
    bool,
    typer.Option(
        "--drop-unusable",
        help="Delete sightings without a usable kept crop. Of more than 1,000 some are deleted "
        "before the site gets its model, also where the rollover then ends early.",
    ),
]

sites = typer.Typer(help="Sites: one gallery each.", no_args_is_help=True)


@sites.command("create")
def site_create(
    name: SiteName, server: ServerOption = DEFAULT_SERVER, as_json: AsJson = False
) -> None:
    """Create an empty site."""
    with ResightClient(server) as client:
        site = client.create_site(name)
    if as_json:
        print_json(_site_json(site))
    else:
        tell(f"created with model {site.model}:")
        typer.echo(site.id)


@sites.command("list")
def site_list(
    cameras: Annotated[
        bool, typer.Option("--cameras", help="List the cameras of each site, as `site show` does.")
    ] = False,
    server: ServerOption = DEFAULT_SERVER,
    as_json: AsJson = False,
) -> None:
    """List the sites."""
    with ResightClient(server) as client:
        found = list(client.sites())
        seen = [(site, list(client.cameras(site.id)) if cameras else []) for site in found]
    if as_json and cameras:
        print_json([_with_cameras(site, of_it) for site, of_it in seen])
    elif as_json:
        print_json([_site_json(site) for site in found])
    elif not found:
        tell("no sites; create one with `resight site create NAME`")
    elif cameras:
        rows = [
            [site.id, *cells]
            for site, of_it in seen
            for cells in _camera_cells(of_it) or [["", "0", "", ""]]
        ]
        typer.echo(table(["site", *_CAMERA_HEADER], rows, right=[2]))
    else:
        typer.echo(_site_table(found))


def _site_table(found: Sequence[Site]) -> str:
    rows = [
        [
            site.id,
            str(site.sightings),
            site.model,
            "ready" if site.ready else "needs reembed",
            short_time(site.created),
        ]
        for site in found
    ]
    return table(["site", "sightings", "model", "state", "created"], rows, right=[1])


@sites.command("show")
def site_show(
    name: SiteName, server: ServerOption = DEFAULT_SERVER, as_json: AsJson = False
) -> None:
    """Show a site and its cameras: sightings of each, times of the first and the last."""
    with ResightClient(server) as client:
        site = client.site(name)
        cameras = list(client.cameras(name))
    if as_json:
        print_json(_with_cameras(site, cameras))
        return
    typer.echo(_site_table([site]))
    if cameras:
        typer.echo(f"\n{table(_CAMERA_HEADER, _camera_cells(cameras), right=[1])}")


_CAMERA_HEADER = ["camera", "sightings", "first", "last"]


def _camera_cells(cameras: Sequence[CameraSummary]) -> list[list[str]]:
    return [
        [each.camera, str(each.sightings), short_time(each.first), short_time(each.last)]
        for each in cameras
    ]


@sites.command("delete")
def site_delete(
    name: SiteName,
    force: Annotated[
        bool, typer.Option("--force", help="Delete the site with its sightings.")
    ] = False,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Delete a site; one with sightings only with --force."""
    with ResightClient(server) as client:
        try:
            client.delete_site(name, force=force)
        except CallFailedError as error:
            if error.reason == "SITE_NOT_EMPTY":
                raise ClientError(f"{error} (--force)") from error
            raise
    tell(f"deleted site {name}")


@sites.command("reembed")
def site_reembed(
    name: SiteName,
    drop_unusable: DropUnusable = False,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Re-embed a site's kept crops with the server's own model, and use it."""
    with ResightClient(server) as client:
        show_rollover(client, name, client.reembed_site(name, drop_unusable=drop_unusable))


def show_rollover(
    client: ResightClient, site: str, steps: Iterable[RolloverProgress]
) -> RolloverProgress:
    """Show the progress of a rollover and its result; returns the last step."""
    with progress(f"re-embedding {site}", client.site(site).sightings) as report:
        for step in steps:
            report(step.embedded + step.dropped)
    dropped = f", {step.dropped} dropped" if step.dropped else ""
    tell(f"site {site}: {plural(step.embedded, 'sighting')}{dropped}; its model is now:")
    typer.echo(step.site.model)
    return step


def _with_cameras(site: Site, cameras: Sequence[CameraSummary]) -> dict[str, Any]:
    found = [
        {
            "camera": each.camera,
            "sightings": each.sightings,
            "first": each.first.isoformat(),
            "last": each.last.isoformat(),
        }
        for each in cameras
    ]
    return {**_site_json(site), "cameras": found}


def _site_json(site: Site) -> dict[str, Any]:
    return {
        "site": site.id,
        "model": site.model,
        "sightings": site.sightings,
        "state": "READY" if site.ready else "MODEL_MISMATCH",
        "created": site.created.isoformat(),
    }
