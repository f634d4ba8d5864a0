"""When a run's state is kept in its folder, and how it is asked to stop."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from adapt.errors import StoppedError
from adapt.runs.folder import Run
from adapt.runtime.distributed import ProcessGroup
from adapt.training.state import Checkpoints, LoopState

log = logging.getLogger("resight")

SECONDS = 300.0
"""A state is kept so often within a round, and after each round."""


class StopRequest:
    """Asks a run to keep its state and end; may be made from a signal handler."""

    def __init__(self, seconds: float = SECONDS) -> None:
        """Nobody asked yet. seconds: how often the state is kept within a round until then."""
        self.made = False
        self.seconds = seconds

    def make(self) -> None:
        """Ask."""
        self.made = True


@contextmanager
def stopped_by_sigterm() -> Iterator[StopRequest]:
    """Within the block SIGTERM asks a run to keep its state and end."""
    request = StopRequest()

    def ask(number: int, frame: object) -> None:
        log.info("asked to stop: the state is kept as soon as this step is done")
        request.make()

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)


class RunCheckpoints:
    """Keeps the states of a run; `adapt.training.state.Checkpoints`."""

    def __init__(
        self,
        run: Run,
        stop: StopRequest,
        start: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        seconds: float = SECONDS,
    ) -> None:
        """start: when the run began, by the clock, less the time between its processes."""
        self._run = run
        self._stop = stop
        self._start = start
        self._clock = clock
        self._seconds = seconds
        self._last = clock()

    def due(self) -> bool:
        """Some time after the last one, or when the run is to stop."""
        return self._stop.made or self._clock() - self._last >= self._seconds

    def keep(self, make_state: Callable[[], LoopState]) -> None:
        """See `Checkpoints`."""
        state = make_state()
        notes = {**state.notes, "seconds": self._clock() - self._start}
        self._run.keep_checkpoint(state.tensors, notes)
        self._last = self._clock()
        self.pulse()

    def pulse(self) -> None:
        """See `Checkpoints`."""
        if self._stop.made:
            raise StoppedError(
                f"{self._run.path} was asked to stop: it goes on with --resume {self._run.path}"
            )


class SharedCheckpoints:
    """Of several processes: the first one keeps the states, and all stop after the same step.

    Whoever was asked to stop says so at the next `due` or `pulse`, which all come to together.
    """

    def __init__(
        self, group: ProcessGroup, asked: StopRequest, agreed: StopRequest, kept_by: Checkpoints
    ) -> None:
        """asked: made in this process at any time. agreed: made here, when all know.

        kept_by: of this process, which looks at `agreed` alone.
        """
        self._group = group
        self._asked = asked
        self._agreed = agreed
        self._kept_by = kept_by

    def due(self) -> bool:
        """See `Checkpoints`."""
        self._agree()
        return self._kept_by.due()

    def keep(self, make_state: Callable[[], LoopState]) -> None:
        """See `Checkpoints`."""
        self._kept_by.keep(make_state)

    def pulse(self) -> None:
        """See `Checkpoints`."""
        self._agree()
        self._kept_by.pulse()

    def _agree(self) -> None:
        if self._group.any_rank(self._asked.made):
            self._agreed.make()


class _KeptElsewhere:
    """The checkpoints of all processes but the first: they only stop."""

    def __init__(self, run: Run, stop: StopRequest) -> None:
        self._run = run
        self._stop = stop

    def due(self) -> bool:
        return self._stop.made

    def keep(self, make_state: Callable[[], LoopState]) -> None:
        self.pulse()

    def pulse(self) -> None:
        if self._stop.made:
            raise StoppedError(f"{self._run.path} was asked to stop")


def checkpoints_of(run: Run, stop: StopRequest, start: float, group: ProcessGroup) -> Checkpoints:
    """What keeps the states of a run, in this process of `world`.

    start: see `RunCheckpoints`.
    """
    if group.size == 1:
        return RunCheckpoints(run, stop, start, seconds=stop.seconds)
    agreed = StopRequest()
    own: Checkpoints = _KeptElsewhere(run, agreed)
    if group.is_main:
        own = RunCheckpoints(run, agreed, start, seconds=stop.seconds)
    return SharedCheckpoints(group, stop, agreed, own)
