"""Conversion between messages and records; used by server and client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2

from service.errors import BadFilterError, BadSightingError, CallError
from service.rpc.names import (
    model_name,
    parse_model,
    parse_sighting,
    parse_site,
    sighting_name,
    site_name,
)
from service.rpc.pb.resight.v1 import gallery_pb2, model_pb2, site_pb2
from service.types import (
    CameraSummary,
    Enrolled,
    Match,
    ModelInfo,
    NewSighting,
    RolloverProgress,
    Sighting,
    SightingFilter,
    Site,
    UnknownValues,
)

ERROR_DOMAIN = "resight"


# --- errors


def status(error: CallError) -> status_pb2.Status:
    """The google.rpc.Status of an error, with ErrorInfo and, where known, RetryInfo."""
    details = [
        _packed(
            error_details_pb2.ErrorInfo(
                reason=error.reason, domain=ERROR_DOMAIN, metadata=error.metadata
            )
        )
    ]
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(code=int(error.code), message=error.message, details=details)


def _packed(detail: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


# --- times


def timestamp(moment: datetime) -> Timestamp:
    """The Timestamp of an aware datetime."""
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def moment(message: Timestamp) -> datetime:
    """The aware UTC datetime of a Timestamp, truncated to microseconds.

    Raises:
        ValueError: not a time of the years 1 to 9999.
    """
    return message.ToDatetime(tzinfo=UTC)


def _time_or_none(
    message: gallery_pb2.Sighting | gallery_pb2.SightingFilter,
    field: str,
    error: Callable[[str], CallError],
) -> datetime | None:
    if not message.HasField(field):  # type: ignore[arg-type]
        return None
    try:
        return moment(getattr(message, field))
    except ValueError as fault:
        raise error(f"{field} is invalid: {fault}; give a time of the years 1 to 9999") from fault


# --- records


def site_to_wire(site: Site) -> site_pb2.Site:
    """A site as it is sent."""
    states = site_pb2.Site.State
    return site_pb2.Site(
        name=site_name(site.id),
        model=model_name(site.model),
        sighting_count=site.sightings,
        create_time=timestamp(site.created),
        state=states.STATE_READY if site.ready else states.STATE_MODEL_MISMATCH,
    )


def site_from_wire(message: site_pb2.Site) -> Site:
    """A site as it was received."""
    return Site(
        id=parse_site(message.name),
        model=parse_model(message.model),
        sightings=message.sighting_count,
        created=moment(message.create_time),
        ready=message.state == site_pb2.Site.State.STATE_READY,
    )


def progress_to_wire(step: RolloverProgress) -> site_pb2.ReembedSiteResponse:
    """The progress of a rollover as it is sent."""
    return site_pb2.ReembedSiteResponse(
        embedded_count=step.embedded,
        total_count=step.total,
        dropped_count=step.dropped,
        site=site_to_wire(step.site),
        adaptation=step.adaptation,
        verdict=step.verdict,
    )


def progress_from_wire(message: site_pb2.ReembedSiteResponse) -> RolloverProgress:
    """The progress of a rollover as it was received."""
    return RolloverProgress(
        message.embedded_count,
        message.total_count,
        message.dropped_count,
        site_from_wire(message.site),
        message.adaptation,
        message.verdict,
    )


def model_to_wire(model: ModelInfo) -> model_pb2.Model:
    """A model as it is sent."""
    return model_pb2.Model(
        name=model_name(model.reference),
        embedding_dim=model.dimension,
        input_height=model.height,
        input_width=model.width,
        backbone=model.backbone,
        method=model.method,
        provider=model.provider,
        fingerprint=model.fingerprint,
    )


def model_from_wire(message: model_pb2.Model) -> ModelInfo:
    """A model as it was received."""
    name, _, version = parse_model(message.name).partition("@")
    return ModelInfo(
        name=name,
        version=version,
        fingerprint=message.fingerprint,
        dimension=message.embedding_dim,
        height=message.input_height,
        width=message.input_width,
        backbone=message.backbone,
        method=message.method,
        provider=message.provider,
    )


def sighting_to_wire(
    site: str, sighting: Sighting, *, attributes: bool = True
) -> gallery_pb2.Sighting:
    """A sighting as it is sent, without its image."""
    return gallery_pb2.Sighting(
        name=sighting_name(site, sighting.id),
        camera=sighting.camera,
        time=timestamp(sighting.time),
        track=sighting.track,
        person=sighting.person,
        attributes=sighting.attributes if attributes else None,
        create_time=timestamp(sighting.created),
        crop_kept=sighting.crop_kept,
    )


def sighting_from_wire(message: gallery_pb2.Sighting) -> Sighting:
    """A sighting as it was received."""
    return Sighting(
        id=parse_sighting(message.name)[1],
        camera=message.camera,
        time=moment(message.time),
        track=message.track,
        person=message.person,
        attributes=dict(message.attributes),
        created=moment(message.create_time),
        crop_kept=message.crop_kept,
    )


def item_from_wire(item: gallery_pb2.EnrollItem) -> NewSighting:
    """A sighting to enroll as it was received; raises `CallError`."""
    sighting = item.sighting
    return NewSighting(
        image=sighting.image,
        camera=sighting.camera,
        id=item.sighting_id,
        time=_time_or_none(sighting, "time", BadSightingError),
        track=sighting.track,
        person=sighting.person,
        attributes=dict(sighting.attributes),
    )


def item_to_wire(new: NewSighting) -> gallery_pb2.EnrollItem:
    """A sighting to enroll as it is sent."""
    return gallery_pb2.EnrollItem(
        sighting_id=new.id,
        sighting=gallery_pb2.Sighting(
            camera=new.camera,
            time=None if new.time is None else timestamp(new.time),
            track=new.track,
            person=new.person,
            attributes=new.attributes,
            image=new.image,
        ),
    )


def filter_from_wire(message: gallery_pb2.SightingFilter) -> SightingFilter:
    """A filter as it was received; raises `BadFilterError`."""
    return SightingFilter(
        cameras=tuple(message.cameras),
        exclude_cameras=tuple(message.exclude_cameras),
        start=_time_or_none(message, "start_time", BadFilterError),
        end=_time_or_none(message, "end_time", BadFilterError),
        persons=tuple(message.persons),
        exclude_tracks=tuple(message.exclude_tracks),
    )


def filter_to_wire(wanted: SightingFilter) -> gallery_pb2.SightingFilter:
    """A filter as it is sent."""
    return gallery_pb2.SightingFilter(
        cameras=wanted.cameras,
        exclude_cameras=wanted.exclude_cameras,
        start_time=None if wanted.start is None else timestamp(wanted.start),
        end_time=None if wanted.end is None else timestamp(wanted.end),
        persons=wanted.persons,
        exclude_tracks=wanted.exclude_tracks,
    )


def unknown_to_wire(unknown: UnknownValues) -> gallery_pb2.UnknownFilterValues:
    """Values of a filter that nobody has as they are sent."""
    return gallery_pb2.UnknownFilterValues(
        field=unknown.field,
        values=unknown.values,
        value_count=unknown.count,
        known=unknown.known,
        known_count=unknown.known_count,
    )


def unknown_from_wire(message: gallery_pb2.UnknownFilterValues) -> UnknownValues:
    """Values of a filter that nobody has as they were received."""
    return UnknownValues(
        field=message.field,
        values=tuple(message.values),
        count=message.value_count,
        known=tuple(message.known),
        known_count=message.known_count,
    )


def camera_to_wire(camera: CameraSummary) -> gallery_pb2.Camera:
    """A camera as it is sent."""
    return gallery_pb2.Camera(
        camera=camera.camera,
        sighting_count=camera.sightings,
        first_time=timestamp(camera.first),
        last_time=timestamp(camera.last),
    )


def camera_from_wire(message: gallery_pb2.Camera) -> CameraSummary:
    """A camera as it was received."""
    return CameraSummary(
        camera=message.camera,
        sightings=message.sighting_count,
        first=moment(message.first_time),
        last=moment(message.last_time),
    )


def enroll_result(
    site: str, result: Enrolled | CallError, *, attributes: bool = True
) -> gallery_pb2.EnrollResult:
    """The result of an item as it is sent."""
    if isinstance(result, CallError):
        return gallery_pb2.EnrollResult(error=status(result))
    return gallery_pb2.EnrollResult(
        sighting=sighting_to_wire(site, result.sighting, attributes=attributes),
        replaced=result.replaced,
    )


def search_result(site: str, result: Sequence[Match] | CallError) -> gallery_pb2.SearchResult:
    """The result of a query as it is sent."""
    if isinstance(result, CallError):
        return gallery_pb2.SearchResult(error=status(result))
    return gallery_pb2.SearchResult(
        matches=[
            gallery_pb2.Match(sighting=sighting_to_wire(site, match.sighting), score=match.score)
            for match in result
        ]
    )
