"""When a run's state is kept: every so many seconds within a round, and after each round."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.config import Augmentation, BatchShape, OptimizerSettings, Schedule  # noqa: E402
from adapt.data.decoding.decode import DecodedCrops  # noqa: E402
from adapt.errors import StoppedError  # noqa: E402
from adapt.methods import Source  # noqa: E402
from adapt.methods.source import SourceOptions  # noqa: E402
from adapt.runs.checkpoints import RunCheckpoints, StopRequest, checkpoints_of  # noqa: E402
from adapt.runs.folder import Run  # noqa: E402
from adapt.runtime.distributed import SINGLE_PROCESS  # noqa: E402
from adapt.training.loop import train  # noqa: E402
from adapt.training.state import LoopState  # noqa: E402
from adapt.types import CropSet, Sample  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402
from tests.support.tiny_runs import info  # noqa: E402

STEP = 10.0
"""Seconds of a step."""


class Clock:
    """Moved by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class KeptStates(Run):
    """A run folder that writes down which states it was given, and when."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(Path("run"), info())
        self.clock = clock
        self.kept: list[tuple[int, int]] = []
        self.seconds: list[float] = []

    def keep_checkpoint(self, tensors: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
        self.kept.append((notes["round"], notes["done"]))
        self.seconds.append(notes["seconds"])
        self.clock.now += 2  # writing takes time, too


class Ticking(Source):
    """Each step takes a while."""

    clock: Clock

    def after_step(self, step: int) -> None:
        self.clock.now += STEP


def kept(seconds: float, clock: Clock | None = None) -> KeptStates:
    """Two rounds of five steps."""
    clock = clock or Clock()
    run = KeptStates(clock)
    samples = tuple(Sample(Path(f"{i}"), f"{i}", camera=0, person=i // 2) for i in range(8))
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 16, 3), dtype=np.uint8)
    data = DecodedCrops(CropSet(Path(), samples, ("a",)), images)
    method = Ticking(ReIDNet("mobilenet_v2"), SourceOptions(), data.crops.persons)
    method.clock = clock
    rounds = train(
        method,
        data,
        schedule=Schedule(rounds=2, iterations=5),
        batch=BatchShape(identities=2, instances=2),
        augmentation=Augmentation(pad=2),
        optimizer=OptimizerSettings(),
        camera_statistics=False,
        seed=0,
        device=torch.device("cpu"),
        checkpoints=RunCheckpoints(run, StopRequest(), clock(), clock=clock, seconds=seconds),
    )
    assert len(list(rounds)) == 2
    return run


def test_states_are_kept_every_so_many_seconds_and_after_each_round() -> None:
    """At 25 seconds the third step of a round is the first that is due, counted from the last
    state; the end of the last round needs none."""
    assert kept(25).kept == [(0, 0), (0, 3), (1, 0), (1, 3)]


def test_the_end_of_a_round_begins_the_count_anew() -> None:
    """Fourth steps: without the state between the rounds the second one's third would be due."""
    assert kept(35).kept == [(0, 0), (0, 4), (1, 0), (1, 4)]


def test_rounds_that_are_shorter_keep_one_state_each() -> None:
    assert kept(1000).kept == [(0, 0), (1, 0)]


def test_without_pause_every_step_is_kept() -> None:
    """The last step of a round, too: there the state is one before the round is counted."""
    assert kept(0).kept == [(number, step) for number in (0, 1) for step in range(6)]


@pytest.mark.slow
def test_a_state_knows_the_seconds_of_the_run() -> None:
    """Two seconds for each state that was written before, ten for each step."""
    assert kept(25).seconds == [0, 2 + 3 * STEP, 4 + 5 * STEP, 6 + 8 * STEP]


def test_when_a_state_is_due() -> None:
    clock = Clock()
    run = KeptStates(clock)
    stop = StopRequest()
    checkpoints = RunCheckpoints(run, stop, clock() - 500, clock=clock, seconds=60)
    assert not checkpoints.due()
    clock.now += 59
    assert not checkpoints.due()
    clock.now += 1
    assert checkpoints.due()
    state = LoopState({}, {"round": 3, "done": 1})
    checkpoints.keep(lambda: state)
    assert run.seconds == [560], "500 of them in an earlier process"
    assert not checkpoints.due()
    stop.make()
    assert checkpoints.due()
    with pytest.raises(StoppedError, match="goes on with --resume run"):
        checkpoints.keep(lambda: state)
    assert len(run.kept) == 2, "who is asked to stop keeps its state first"


def test_a_run_is_asked_how_often_its_state_is_kept() -> None:
    clock = Clock()
    often = checkpoints_of(KeptStates(clock), StopRequest(seconds=0), 0.0, SINGLE_PROCESS)
    seldom = checkpoints_of(KeptStates(clock), StopRequest(), 0.0, SINGLE_PROCESS)
    assert often.due()
    assert not seldom.due()
