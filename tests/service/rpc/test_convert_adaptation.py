from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from models.job_contract import AdaptationRound, GateVerdict
from service.jobs.records import Adaptation, AdaptationSpec, JobState
from service.rpc.convert_adaptation import adaptation_from_wire, adaptation_to_wire

T0 = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
WAITING = Adaptation(
    id="20260102-030405-abcdef",
    site="lobby",
    spec=AdaptationSpec("mmt", "mmt_small", ("optimizer.lr=1e-4",), 7),
    state=JobState.PENDING,
    created=T0,
)
OVER = Adaptation(
    id="20260102-030405-abcdef",
    site="lobby",
    spec=AdaptationSpec("daal", "daal", (), 1),
    state=JobState.SUCCEEDED,
    created=T0,
    started=T0 + timedelta(seconds=1),
    ended=T0 + timedelta(hours=1),
    reason="STOPPED",
    error="why",
    model="lobby@2",
    gate=GateVerdict(verdict="hold", reasons=("few", "small")),
    rounds_error="damaged",
    rounds_left=True,
)
ROUNDS = [
    AdaptationRound(1, "dbscan", ("odd", "small"), {"loss": 1.5, "clusters": 3.0}),
    AdaptationRound(2, "dbscan", (), {}),
]


@pytest.mark.parametrize(("adaptation", "rounds"), [(WAITING, []), (OVER, ROUNDS)])
def test_an_adaptation_survives_both_conversions(
    adaptation: Adaptation, rounds: list[AdaptationRound]
) -> None:
    assert adaptation_from_wire(adaptation_to_wire(adaptation, rounds)) == (adaptation, rounds)
