"""Where a run is computed, and how it is asked to stop."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from adapt.runtime.distributed import SINGLE_PROCESS, ProcessGroup

log = logging.getLogger("resight")

CHECKPOINT_SECONDS = 300.0
"""A checkpoint is saved at this interval within a round, and after each round."""


class StopRequest:
    """Asks a run to save its state and end; may be made from a signal handler."""

    def __init__(self) -> None:
        """Not made yet."""
        self.made = False

    def make(self) -> None:
        """Ask the run to stop."""
        self.made = True


@dataclass(frozen=True)
class RunContext:
    """Where a run is computed; what it computes is in its `RunSpec`.

    group: the processes that do the run together, each with the same spec. stop: asks the run to
    end after the step it is in. checkpoint_seconds: between two checkpoints within a round.
    """

    device: torch.device
    group: ProcessGroup = SINGLE_PROCESS
    stop: StopRequest = field(default_factory=StopRequest)
    checkpoint_seconds: float = CHECKPOINT_SECONDS


@contextmanager
def stopped_by_sigterm() -> Iterator[StopRequest]:
    """Within the block SIGTERM asks a run to save its state and end."""
    request = StopRequest()

    def ask(number: int, frame: object) -> None:
        log.info("asked to stop: the state is saved as soon as this step is done")
        request.make()

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)
