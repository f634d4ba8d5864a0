"""Conversion of adaptations between messages and records; used by server and client."""

from __future__ import annotations

from datetime import datetime

from models.job_contract import AdaptationRound, GateVerdict
from service.jobs.records import Adaptation, AdaptationSpec, JobState
from service.rpc.convert import moment, timestamp
from service.rpc.names import adaptation_name, model_name, parse_adaptation, parse_model
from service.rpc.pb.resight.v1 import adaptation_pb2

_STATES = adaptation_pb2.Adaptation.State


def spec_from_wire(request: adaptation_pb2.StartAdaptationRequest) -> AdaptationSpec:
    """What is asked for, as it was received; raises `BadAdaptationError`."""
    return AdaptationSpec(
        method=request.method,
        recipe=request.recipe or request.method,
        overrides=tuple(request.overrides),
        seed=request.seed if request.HasField("seed") else 1,
    )


def adaptation_to_wire(
    adaptation: Adaptation, rounds: list[AdaptationRound] | None = None
) -> adaptation_pb2.Adaptation:
    """An adaptation as it is sent."""
    return adaptation_pb2.Adaptation(
        name=adaptation_name(adaptation.site, adaptation.id),
        method=adaptation.spec.method,
        recipe=adaptation.spec.recipe,
        overrides=adaptation.spec.overrides,
        seed=adaptation.spec.seed,
        state=_STATES.Value(f"STATE_{adaptation.state.value}"),
        reason=adaptation.reason,
        error=adaptation.error,
        create_time=timestamp(adaptation.created),
        start_time=None if adaptation.started is None else timestamp(adaptation.started),
        end_time=None if adaptation.ended is None else timestamp(adaptation.ended),
        model=model_name(adaptation.model) if adaptation.model else "",
        verdict=adaptation.gate.verdict if adaptation.gate else "",
        verdict_reasons=adaptation.gate.reasons if adaptation.gate else (),
        rounds=[round_to_wire(round_) for round_ in rounds or ()],
        rounds_error=adaptation.rounds_error,
        rounds_left=adaptation.rounds_left,
    )


def adaptation_from_wire(
    message: adaptation_pb2.Adaptation,
) -> tuple[Adaptation, list[AdaptationRound]]:
    """An adaptation and its rounds as they were received."""

    def time(field: str) -> datetime | None:
        return moment(getattr(message, field)) if message.HasField(field) else None  # type: ignore[arg-type]

    site, id_ = parse_adaptation(message.name)
    adaptation = Adaptation(
        id=id_,
        site=site,
        spec=AdaptationSpec(message.method, message.recipe, tuple(message.overrides), message.seed),
        state=JobState(_STATES.Name(message.state).removeprefix("STATE_")),
        created=moment(message.create_time),
        started=time("start_time"),
        ended=time("end_time"),
        reason=message.reason,
        error=message.error,
        model=parse_model(message.model) if message.model else "",
        gate=_gate_from_wire(message),
        rounds_error=message.rounds_error,
        rounds_left=message.rounds_left,
    )
    return adaptation, [round_from_wire(round_) for round_ in message.rounds]


def _gate_from_wire(message: adaptation_pb2.Adaptation) -> GateVerdict | None:
    if not message.verdict:
        return None
    fields = {"verdict": message.verdict, "reasons": tuple(message.verdict_reasons)}
    return GateVerdict.model_validate(fields)


def round_to_wire(round_: AdaptationRound) -> adaptation_pb2.AdaptationRound:
    """A round as it is sent."""
    return adaptation_pb2.AdaptationRound(
        number=round_.number,
        labels=round_.labels,
        warnings=round_.warnings,
        figures=round_.figures,
    )


def round_from_wire(message: adaptation_pb2.AdaptationRound) -> AdaptationRound:
    """A round as it was received."""
    return AdaptationRound(
        message.number, message.labels, tuple(message.warnings), dict(message.figures)
    )
