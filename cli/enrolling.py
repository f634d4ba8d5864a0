"""The command `enroll`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from adapt.data.catalog.image_files import left_out_lines, unread_reason
from adapt.errors import NoImagesError
from adapt.runtime.progress import progress
from cli.common import AsJson, ServerOption, SiteOption, plural, print_json, tell
from cli.crop_files import FileToEnroll, Found, find_crops
from models.text import nfc
from service.client import DEFAULT_SERVER, ClientError, ResightClient
from service.errors import CallError
from service.types import Enrolled, NewSighting


def enroll(
    paths: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    site: SiteOption,
    camera: Annotated[str | None, typer.Option(help="Camera of all these crops.")] = None,
    camera_pattern: Annotated[
        str | None,
        typer.Option(
            help="Regular expression searched in each path below its folder; its group `camera`, "
            "or its first, names the camera."
        ),
    ] = None,
    person: Annotated[str, typer.Option(help="Person label of all these crops.")] = "",
    track: Annotated[str, typer.Option(help="Track of all these crops.")] = "",
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if any file was not enrolled.")
    ] = False,
    server: ServerOption = DEFAULT_SERVER,
    as_json: AsJson = False,
) -> None:
    """Enroll crops. A file that was enrolled before replaces its sighting.

    Without --camera and --camera-pattern, the camera comes from the folder's manifest, the file
    names of a public set, or is the first folder below the one given. Exit code 0 if any file
    was enrolled: the last line says how many were refused.
    """
    if camera is not None and camera_pattern is not None:
        raise typer.BadParameter("give --camera or --camera-pattern, not both")
    found = find_crops(paths, camera, camera_pattern)
    if track and any(crop.track for crop in found.crops):
        raise typer.BadParameter("a manifest names tracks, and --track is given: leave it out")
    if not found.crops:
        raise NoImagesError(f"no images in {', '.join(map(str, paths))}{_first(found)}")
    for doubt in found.doubts:
        tell(f"warning: {doubt}")
    outcomes: list[tuple[FileToEnroll, Enrolled | Exception]] = []
    try:
        with (
            ResightClient(server) as client,
            progress("enrolling", len(found.crops)) as report,
        ):
            for outcome in _enroll_files(client, site, found.crops, person, track):
                outcomes.append(outcome)
                report(len(outcomes))
    except ClientError as error:
        done = sum(isinstance(result, Enrolled) for _, result in outcomes)
        if not done:
            raise
        raise ClientError(
            f"{error} (enrolled: {done} of {plural(len(found.crops), 'file')}; run the same "
            "command again for the others)"
        ) from error
    _report_enrolled(site, found, outcomes, as_json)
    failed = [path for path, result in outcomes if not isinstance(result, Enrolled)]
    if len(failed) == len(outcomes) or (strict and failed):
        raise typer.Exit(1)


def _enroll_files(
    client: ResightClient, site: str, crops: Sequence[FileToEnroll], person: str, track: str
) -> Iterator[tuple[FileToEnroll, Enrolled | Exception]]:
    sent: list[FileToEnroll] = []
    unread: list[tuple[FileToEnroll, Exception]] = []

    def read() -> Iterator[NewSighting]:
        for crop in crops:
            try:
                new = replace(crop.read(), person=person, track=track or crop.track)
            except (OSError, CallError) as error:
                unread.append((crop, error))
                continue
            sent.append(crop)
            yield new

    for number, result in enumerate(client.enroll(site, read())):
        yield sent[number], result
    yield from unread


def _report_enrolled(
    site: str,
    found: Found,
    outcomes: Sequence[tuple[FileToEnroll, Enrolled | Exception]],
    as_json: bool,
) -> None:
    enrolled = [result for _, result in outcomes if isinstance(result, Enrolled)]
    replaced = sum(result.replaced for result in enrolled)
    failed = len(outcomes) - len(enrolled)
    if as_json:
        print_json(
            {
                "site": site,
                "enrolled": len(enrolled),
                "replaced": replaced,
                "failed": failed,
                "ignored": len(found.left_out),
                "left_out": [
                    {"path": str(each.path), "reason": each.reason} for each in found.left_out
                ],
                "results": [_outcome_json(crop, result) for crop, result in outcomes],
            }
        )
        return
    refused = [
        (str(crop.path), _why(crop, result))
        for crop, result in outcomes
        if not isinstance(result, Enrolled)
    ]
    others = [(str(each.path), each.reason) for each in found.left_out]
    for line in (*left_out_lines(refused), *left_out_lines(others)):
        tell(line)
    cameras = len({result.sighting.camera for result in enrolled})
    parts = [f"enrolled {len(enrolled)} of {plural(len(outcomes), 'file')} in site {site}"]
    parts.append(plural(cameras, "camera"))
    parts += [f"{replaced} replaced"] if replaced else []
    parts += [f"{failed} refused"] if failed else []
    parts += [f"{plural(len(others), 'other file')} left out"] if others else []
    where = "; stderr says why, --json names all" if failed or others else ""
    typer.echo(f"{', '.join(parts)}{where}")


def _first(found: Found) -> str:
    if not found.left_out:
        return ""
    first = found.left_out[0]
    return f"; first of what is left out: {first.path}, {first.reason}"


def _why(crop: FileToEnroll, error: Exception) -> str:
    return unread_reason(crop.path, error) if isinstance(error, OSError) else str(error)


def _outcome_json(crop: FileToEnroll, result: Enrolled | Exception) -> dict[str, Any]:
    head = {"path": str(crop.path), "camera": nfc(crop.camera)}
    if isinstance(result, Enrolled):
        return {**head, "sighting": result.sighting.id, "replaced": result.replaced}
    reason = getattr(result, "reason", "") or type(result).__name__
    return {**head, "error": _why(crop, result), "reason": reason}
