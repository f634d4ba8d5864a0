"""The commands `search` and `sighting`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.common import (
    AsJson,
    ServerOption,
    SiteOption,
    plural,
    print_json,
    short_time,
    table,
    tell,
)
from service.client import DEFAULT_SERVER, CallFailedError, ClientError, ResightClient
from service.types import Match, Sighting, SightingFilter, UnknownValues

Cameras = Annotated[
    list[str] | None, typer.Option("--camera", help="Only this camera; repeatable.")
]
From = Annotated[
    str | None, typer.Option("--from", help="Start time, ISO 8601; UTC if no zone is given.")
]
To = Annotated[str | None, typer.Option("--to", help="End time (exclusive), ISO 8601.")]

sightings = typer.Typer(help="Sightings of a site.", no_args_is_help=True)


def search(
    image: Annotated[Path, typer.Argument(help="Query image.")],
    site: SiteOption,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of matches.")] = 10,
    camera: Cameras = None,
    exclude_camera: Annotated[
        list[str] | None,
        typer.Option(
            help="Exclude this camera; repeatable. The query's own gives a cross-camera search."
        ),
    ] = None,
    exclude_track: Annotated[
        list[str] | None, typer.Option(help="Exclude this track; repeatable.")
    ] = None,
    start: From = None,
    end: To = None,
    server: ServerOption = DEFAULT_SERVER,
    as_json: AsJson = False,
) -> None:
    """Find the sightings of a site that are most similar to an image."""
    wanted = SightingFilter(
        cameras=tuple(camera or ()),
        exclude_cameras=tuple(exclude_camera or ()),
        exclude_tracks=tuple(exclude_track or ()),
        start=_parse_time(start, "--from"),
        end=_parse_time(end, "--to"),
    )
    try:
        query = image.read_bytes()
    except OSError as error:
        raise ClientError(f"{image} {_unread(image, error)}; give an image file") from error
    with ResightClient(server) as client:
        answer = client.search(site, query, limit=limit, wanted=wanted)
    for unknown in answer.unknown:
        _warn(site, unknown)
    if as_json:
        matches = [_match_json(rank, match) for rank, match in enumerate(answer.matches, 1)]
        print_json(
            {
                "site": site,
                "query": str(image),
                "model": answer.model,
                "matches": matches,
                "unknown": [_unknown_json(unknown) for unknown in answer.unknown],
            }
        )
    elif not answer.matches:
        tell(f"no sightings in site {site} pass the filter")
    else:
        tell(f"site {site}, model {answer.model}, cosine similarity (1 = same)")
        typer.echo(_match_table(answer.matches))


def _unread(image: Path, error: OSError) -> str:
    if image.is_dir():
        return "is a folder, not an image"
    return f"cannot be read ({error.strerror})" if image.exists() else "does not exist"


def _match_table(matches: Sequence[Match]) -> str:
    rows = [
        [str(rank), f"{match.score:.4f}", *_sighting_cells(match.sighting)]
        for rank, match in enumerate(matches, 1)
    ]
    return table(["rank", "score", *_SIGHTING_HEADER], rows, right=[0, 1])


@sightings.command("list")
def sighting_list(
    site: SiteOption,
    person: Annotated[
        list[str] | None, typer.Option(help="Only this person label; repeatable.")
    ] = None,
    camera: Cameras = None,
    start: From = None,
    end: To = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of sightings; default: all.")
    ] = None,
    server: ServerOption = DEFAULT_SERVER,
    as_json: AsJson = False,
) -> None:
    """List sightings, ordered by id."""
    wanted = SightingFilter(
        cameras=tuple(camera or ()),
        persons=tuple(person or ()),
        start=_parse_time(start, "--from"),
        end=_parse_time(end, "--to"),
    )
    with ResightClient(server) as client:
        listed = client.sightings(site, wanted, on_unknown=partial(_warn, site))
        found = list(islice(listed, limit))
    if as_json:
        print_json([_sighting_json(sighting) for sighting in found])
    elif not found:
        tell(f"no sightings in site {site} pass the filter")
    else:
        typer.echo(table(_SIGHTING_HEADER, [_sighting_cells(sighting) for sighting in found]))


@sightings.command("delete")
def sighting_delete(
    ids: Annotated[list[str], typer.Argument(help="Ids of the sightings.")],
    site: SiteOption,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Delete sightings with their crops and embeddings, permanently.

    Prints the ids of those that were there. Unknown ids are skipped, and named at the end, with
    exit code 1.
    """
    with ResightClient(server) as client:
        failed: list[CallFailedError] = []
        for sighting in ids:
            try:
                client.delete_sighting(site, sighting)
            except CallFailedError as error:
                if error.reason not in ("SIGHTING_NOT_FOUND", "BAD_NAME"):
                    raise
                failed.append(error)
            else:
                typer.echo(sighting)
    if failed:
        faults = "; ".join(map(str, failed))
        raise ClientError(f"{len(failed)} of {plural(len(ids), 'sighting')} not deleted: {faults}")


_OPTIONS = {
    "cameras": ("camera", "--camera"),
    "exclude_cameras": ("camera", "--exclude-camera"),
    "persons": ("person", "--person"),
    "exclude_tracks": ("track", "--exclude-track"),
}
"""What the lists of a filter name, and their options."""


def _warn(site: str, unknown: UnknownValues) -> None:
    """Say on stderr that no sighting has some values of a filter, and what there is instead."""
    noun, option = _OPTIONS.get(unknown.field, (unknown.field, unknown.field))
    names = [repr(value) for value in unknown.values]
    asked = f"the {noun if unknown.count == 1 else f'{noun}s'} {_some(names, unknown.count)}"
    there = f"the site has no {noun}s"
    if unknown.known_count and not unknown.known:
        there = f"the site has {plural(unknown.known_count, noun)}"
    elif unknown.known_count:
        known = [repr(value) for value in unknown.known]
        there = f"{noun}s of the site: {_some(known, unknown.known_count)}"
    tell(f"warning: no sighting of site {site} has {asked} ({option}); {there}")


def _some(names: Sequence[str], count: int) -> str:
    left = count - len(names)
    return f"{', '.join(names)}{f' and {left} more' if left else ''}"


def _unknown_json(unknown: UnknownValues) -> dict[str, Any]:
    return {
        "field": unknown.field,
        "values": list(unknown.values),
        "count": unknown.count,
        "known": list(unknown.known),
        "known_count": unknown.known_count,
    }


_SIGHTING_HEADER = ["camera", "time", "track", "person", "file", "sighting"]


def _sighting_cells(sighting: Sighting) -> list[str]:
    return [
        sighting.camera,
        short_time(sighting.time),
        sighting.track,
        sighting.person,
        sighting.attributes.get("file", ""),
        sighting.id,
    ]


def _sighting_json(sighting: Sighting) -> dict[str, Any]:
    return {
        "sighting": sighting.id,
        "camera": sighting.camera,
        "time": sighting.time.isoformat(),
        "track": sighting.track,
        "person": sighting.person,
        "attributes": dict(sighting.attributes),
    }


def _match_json(rank: int, match: Match) -> dict[str, Any]:
    return {"rank": rank, "score": match.score, **_sighting_json(match.sighting)}


def _parse_time(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{option} {text!r} is not an ISO 8601 time; write it like 2026-01-31T18:00:00+01:00"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
