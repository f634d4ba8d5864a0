"""When the state of a run is saved in its folder, and how the run is stopped."""

from __future__ import annotations

import time
from collections.abc import Callable

from adapt.errors import StoppedError
from adapt.runs.folder import Run
from adapt.runtime.context import CHECKPOINT_SECONDS, RunContext, StopRequest
from adapt.runtime.distributed import ProcessGroup
from adapt.training.state import Checkpointer, Snapshot


class FolderCheckpointer:
    """Saves the states of a run in its folder; `adapt.training.state.Checkpointer`."""

    def __init__(
        self,
        run: Run,
        stop: StopRequest,
        start: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        seconds: float = CHECKPOINT_SECONDS,
    ) -> None:
        """start: when the run began, by the clock, less the time between its processes."""
        self._run = run
        self._stop = stop
        self._start = start
        self._clock = clock
        self._seconds = seconds
        self._last = clock()

    def is_due(self) -> bool:
        """Some time after the last one, or when the run is to stop."""
        return self._stop.made or self._clock() - self._last >= self._seconds

    def save(self, make_snapshot: Callable[[], Snapshot]) -> None:
        """See `Checkpointer`."""
        snapshot = make_snapshot()
        notes = {**snapshot.notes, "seconds": self._clock() - self._start}
        self._run.save_checkpoint(snapshot.tensors, notes)
        self._last = self._clock()
        self.check_stop()

    def check_stop(self) -> None:
        """See `Checkpointer`."""
        if self._stop.made:
            raise StoppedError(
                f"{self._run.path} was asked to stop: resume it with --resume {self._run.path}"
            )


class GroupCheckpointer:
    """In each of several processes: all stop after the same step.

    A process that was asked to stop tells the others at the next `is_due` or `check_stop`, which
    all of them call.
    """

    def __init__(
        self, group: ProcessGroup, asked: StopRequest, agreed: StopRequest, own: Checkpointer
    ) -> None:
        """asked: made in this process at any time. agreed: made here, once all know.

        own: of this process; it looks at `agreed` alone.
        """
        self._group = group
        self._asked = asked
        self._agreed = agreed
        self._own = own

    def is_due(self) -> bool:
        """See `Checkpointer`."""
        self._agree()
        return self._own.is_due()

    def save(self, make_snapshot: Callable[[], Snapshot]) -> None:
        """See `Checkpointer`."""
        self._own.save(make_snapshot)

    def check_stop(self) -> None:
        """See `Checkpointer`."""
        self._agree()
        self._own.check_stop()

    def _agree(self) -> None:
        if self._group.any_rank(self._asked.made):
            self._agreed.make()


class _StopOnly:
    """Of all processes but the main one: saves nothing, and stops."""

    def __init__(self, run: Run, stop: StopRequest) -> None:
        self._run = run
        self._stop = stop

    def is_due(self) -> bool:
        return self._stop.made

    def save(self, make_snapshot: Callable[[], Snapshot]) -> None:
        self.check_stop()

    def check_stop(self) -> None:
        if self._stop.made:
            raise StoppedError(f"{self._run.path} was asked to stop")


def make_checkpointer(run: Run, context: RunContext, start: float) -> Checkpointer:
    """The checkpointer of a run in this process. start: see `FolderCheckpointer`."""
    group, seconds = context.group, context.checkpoint_seconds
    if group.size == 1:
        return FolderCheckpointer(run, context.stop, start, seconds=seconds)
    agreed = StopRequest()
    own: Checkpointer = _StopOnly(run, agreed)
    if group.is_main:
        own = FolderCheckpointer(run, agreed, start, seconds=seconds)
    return GroupCheckpointer(group, context.stop, agreed, own)
