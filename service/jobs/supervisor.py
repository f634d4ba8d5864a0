"""Runs the adaptations that are not over, one at a time, each in processes of its own.

The rows in the store decide which: adaptations continue after a stop or a crash of the server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from models.registry import Registry
from service.errors import CallError, DamagedRowError
from service.jobs.folder import JobFolder, remove_folders, tidy_all
from service.jobs.process import Starter
from service.jobs.records import Adaptation, JobReason, JobResult, JobState
from service.jobs.rows import JobRows
from service.jobs.runner import JobContext, JobInterruptedError, JobRunner, JobSetup
from service.operations.metrics import Metrics
from service.types import ModelInUse

log = logging.getLogger("resight.jobs")

T = TypeVar("T")

_RETRY_S = 5.0
"""Pause after the store refused."""


class Supervisor:
    """Belongs to one event loop.

    root: parent of the adaptations' folders. in_use: the model that a site answers with, None if it
    answers with none. start: starts processes. clock: the time, aware.
    """

    def __init__(
        self,
        rows: JobRows,
        root: Path,
        registry: Registry,
        setup: JobSetup,
        *,
        in_use: Callable[[str], ModelInUse | None],
        start: Starter,
        clock: Callable[[], datetime],
        metrics: Metrics,
    ) -> None:
        self._rows = rows
        self._root = root
        self._registry = registry
        self._setup = setup
        self._in_use = in_use
        self._start = start
        self._clock = clock
        self._metrics = metrics
        self._changed = asyncio.Event()
        self._reported: set[str] = set()
        self._stopping = False
        self._current = ""
        self._interrupt = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start the loop."""
        self._task = asyncio.create_task(self._loop(), name="resight-jobs")

    async def stop(self) -> None:
        """End the loop: ask the process to save its state, and kill it after `stop_s`."""
        self._stopping = True
        self._changed.set()
        self._interrupt.set()
        if self._task is not None:
            await self._task

    def changed(self, cancelled: str = "") -> None:
        """An adaptation was added or cancelled, or a site was deleted."""
        self._changed.set()
        if cancelled and cancelled == self._current:
            self._interrupt.set()

    async def count(self) -> list[Adaptation]:
        """Set the metrics; returns the adaptations that are not over, in the order they are run.

        A damaged one is left out, and logged once.
        """
        found = await asyncio.to_thread(self._rows.unfinished)
        self._report_damage(found)
        adaptations = [adaptation for adaptation in found if isinstance(adaptation, Adaptation)]
        for state in (JobState.PENDING, JobState.RUNNING):
            number = sum(adaptation.state is state for adaptation in adaptations)
            self._metrics.adaptations.labels(state.value.lower()).set(number)
        return adaptations

    def folder(self, adaptation: str) -> JobFolder:
        """The folder of an adaptation, which need not exist."""
        return JobFolder(self._root / adaptation)

    async def _loop(self) -> None:
        while not self._stopping:
            self._changed.clear()
            try:
                await self._tidy()
                adaptations = await self.count()
                if adaptations:
                    await self._work(adaptations[0])
                else:
                    await self._changed.wait()
            except Exception as error:
                if isinstance(error, CallError):
                    log.warning("adaptations wait: %s", error)
                else:
                    log.exception("adaptations wait after a fault of the server")
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), _RETRY_S)

    async def _tidy(self) -> None:
        # States before pending deletions: a site that is deleted in between is in one of them.
        states = await asyncio.to_thread(self._rows.states)
        self._report_damage(states.values())
        readable = {
            adaptation: state for adaptation, state in states.items() if isinstance(state, JobState)
        }
        unowned = await asyncio.to_thread(tidy_all, self._root, readable) - states.keys()
        pending = await asyncio.to_thread(self._rows.pending_folder_deletions)
        self._report_damage(pending)
        left = [adaptation for adaptation in pending if isinstance(adaptation, str)]
        if left:
            removed = await asyncio.to_thread(remove_folders, self._root, left)
            await _committed(self._rows.forget_folder_deletions(removed))
        unknown = unowned - {*left, *self._reported}
        if unknown:
            self._reported |= unknown
            message = "%s has entries of no adaptation in the database; they are left alone: %s"
            log.warning(message, self._root, ", ".join(sorted(unknown)))

    def _report_damage(self, read: Iterable[object]) -> None:
        """Log the errors among what was read of the rows, each once."""
        for error in read:
            if isinstance(error, DamagedRowError) and str(error) not in self._reported:
                self._reported.add(str(error))
                log.error("the adaptation is left out: %s", error)

    async def _work(self, adaptation: Adaptation) -> None:
        # Before it is marked as running: a cancellation from then on has to find it here.
        self._current, self._interrupt = adaptation.id, asyncio.Event()
        if self._stopping:
            return
        try:
            adaptation = await _committed(self._rows.begin(adaptation, self._clock()))
            if adaptation.state.over:
                return
            await self.count()
            result = (
                JobResult(JobState.CANCELLED)
                if adaptation.cancel
                else await self._result(adaptation)
            )
            if result is not None:
                await self._finish(adaptation, result)
        finally:
            self._current = ""

    async def _result(self, adaptation: Adaptation) -> JobResult | None:
        """Run an adaptation; None when the server stops before it ends."""
        log.info(
            "adaptation %s of site %s: %s", adaptation.id, adaptation.site, adaptation.spec.method
        )
        folder = self.folder(adaptation.id)
        context = JobContext(
            setup=self._setup,
            crops=self._rows,
            registry=self._registry,
            in_use=self._in_use,
            run_process=lambda module, arguments: self._run(module, arguments, folder.log),
            pause=self._pause,
            interrupted=self._interrupt.is_set,
        )
        try:
            return await JobRunner(adaptation, folder, context).run()
        except JobInterruptedError:
            # A stop of the server decides nothing, even for an adaptation that was cancelled.
            return None if self._stopping else JobResult(JobState.CANCELLED)
        except CallError:
            raise
        except Exception:
            log.exception("adaptation %s failed after a fault of the server", adaptation.id)
            return JobResult(
                JobState.FAILED, JobReason.INTERNAL, "a fault of the server; see its log"
            )

    async def _run(self, module: str, arguments: Sequence[str], output: Path) -> int:
        """Run a process and append its output to a file; returns its exit code.

        Raises:
            JobInterruptedError: it was not started, or ended early.
        """
        if self._interrupt.is_set():
            raise JobInterruptedError
        process = await self._start(module, arguments, output)
        exit_ = asyncio.ensure_future(process.wait())
        interrupt = asyncio.ensure_future(self._interrupt.wait())
        await asyncio.wait({exit_, interrupt}, return_when=asyncio.FIRST_COMPLETED)
        interrupt.cancel()
        if not exit_.done():
            process.terminate()
            await asyncio.wait({exit_}, timeout=self._setup.stop_s)
            if not exit_.done():
                log.warning("the process that writes to %s did not end in time: killed", output)
                process.kill()
        code = await exit_
        if self._interrupt.is_set():
            raise JobInterruptedError
        return code

    async def _pause(self, seconds: float) -> None:
        """Wait; raises `JobInterruptedError` as soon as the adaptation is interrupted."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._interrupt.wait(), seconds)
        if self._interrupt.is_set():
            raise JobInterruptedError

    async def _finish(self, adaptation: Adaptation, result: JobResult) -> None:
        await _committed(self._rows.finish(adaptation, result, self._clock()))
        self._metrics.adaptations_ended.labels(result.state.value.lower()).inc()
        log.info(
            "adaptation %s of site %s: %s %s",
            adaptation.id,
            adaptation.site,
            result.state.value,
            result.model or result.error,
        )


async def _committed(future: Future[T]) -> T:
    return await asyncio.wrap_future(future)
