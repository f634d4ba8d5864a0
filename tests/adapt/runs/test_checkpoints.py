"""When a run's state is kept: every so many seconds within a round, and after each round."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapt needs torch")

from adapt.config import Augmentation, BatchShape, Recipe, Schedule  # noqa: E402
from adapt.data.decoding.decode import DecodedCrops  # noqa: E402
from adapt.errors import StoppedError  # noqa: E402
from adapt.methods import Source  # noqa: E402
from adapt.methods.source import SourceOptions  # noqa: E402
from adapt.runs.checkpoints import FolderCheckpointer, make_checkpointer  # noqa: E402
from adapt.runs.folder import Run  # noqa: E402
from adapt.runtime.context import RunContext, StopRequest  # noqa: E402
from adapt.training.loop import TrainingSession, train  # noqa: E402
from adapt.training.state import Snapshot  # noqa: E402
from adapt.types import CropSet, Sample  # noqa: E402
from models.backbones.net import ReIDNet  # noqa: E402
from tests.support.tiny_runs import info  # noqa: E402

pytestmark = pytest.mark.usefixtures("thin")

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

    def save_checkpoint(self, tensors: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
        self.kept.append((notes["round"], notes["steps_in_round"]))
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
        TrainingSession(method, data),
        Recipe(
            method="source",
            schedule=Schedule(rounds=2, iterations=5),
            batch=BatchShape(identities=2, instances=2),
            augment=Augmentation(pad=2),
        ),
        RunContext(torch.device("cpu")),
        seed=0,
        checkpointer=FolderCheckpointer(run, StopRequest(), clock(), clock=clock, seconds=seconds),
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
    checkpointer = FolderCheckpointer(run, stop, clock() - 500, clock=clock, seconds=60)
    assert not checkpointer.is_due()
    clock.now += 59
    assert not checkpointer.is_due()
    clock.now += 1
    assert checkpointer.is_due()
    state = Snapshot({}, {"round": 3, "steps_in_round": 1})
    checkpointer.save(lambda: state)
    assert run.seconds == [560], "500 of them in an earlier process"
    assert not checkpointer.is_due()
    stop.make()
    assert checkpointer.is_due()
    with pytest.raises(StoppedError, match="resume it with --resume run"):
        checkpointer.save(lambda: state)
    assert len(run.kept) == 2, "who is asked to stop keeps its state first"


def test_a_context_says_how_often_a_state_is_saved() -> None:
    run, cpu = KeptStates(Clock()), torch.device("cpu")
    often = make_checkpointer(run, RunContext(cpu, checkpoint_seconds=0), 0.0)
    seldom = make_checkpointer(run, RunContext(cpu), 0.0)
    assert often.is_due()
    assert not seldom.is_due()
