"""Works on the adaptations that are not over, one at a time, each in processes of its own.

What stands in the store decides which, so that the work goes on after a stop or a crash of the
server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from models.registry import Registry
from service.errors import CallError
from service.jobs.folder import JobFolder, remove_folders, tidy_all
from service.jobs.process import Starter
from service.jobs.records import Adaptation, JobReason, JobState
from service.jobs.rows import JobRows
from service.jobs.runner import Ending, JobSetup, Work, WorkInterruptedError
from service.operations.metrics import Metrics
from service.types import ModelInUse

log = logging.getLogger("resight.jobs")

T = TypeVar("T")

_RETRY_S = 5.0
"""Pause after the store refused."""


class Supervisor:
    """Belongs to one event loop.

    root: of the adaptations' folders. in_use: the model that a site answers with, None if it does
    not. start: starts processes. clock: the time, aware.
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
        self._named: set[str] = set()
        self._stopping = False
        self._current = ""
        self._interrupt = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start to work."""
        self._task = asyncio.create_task(self._loop(), name="resight-jobs")

    async def stop(self) -> None:
        """Ask the process to keep its state, end it if it does not, and work no more."""
        self._stopping = True
        self._changed.set()
        self._interrupt.set()
        if self._task is not None:
            await self._task

    def changed(self, cancelled: str = "") -> None:
        """There is a new adaptation, one was cancelled, or a site is no more."""
        self._changed.set()
        if cancelled and cancelled == self._current:
            self._interrupt.set()

    async def count(self) -> list[Adaptation]:
        """Those that are not over, in the order in which they are worked on; for the metrics."""
        jobs = await asyncio.to_thread(self._rows.unfinished)
        for state in (JobState.PENDING, JobState.RUNNING):
            number = sum(job.state is state for job in jobs)
            self._metrics.adaptations.labels(state.value.lower()).set(number)
        return jobs

    def folder(self, adaptation: str) -> JobFolder:
        """The folder of an adaptation, whether it is there or not."""
        return JobFolder(self._root / adaptation)

    async def _loop(self) -> None:
        while not self._stopping:
            self._changed.clear()
            try:
                await self._tidy()
                jobs = await self.count()
                if jobs:
                    await self._work(jobs[0])
                else:
                    await self._changed.wait()
            except Exception as error:
                if isinstance(error, CallError):
                    log.warning("adaptations wait, as the store does not answer: %s", error)
                else:
                    log.exception("adaptations wait for a fault of the server")
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), _RETRY_S)

    async def _tidy(self) -> None:
        # First the rows, then the notes: a site that is deleted in between is in one of them.
        besides = await asyncio.to_thread(lambda: tidy_all(self._root, self._rows.states()))
        left = await asyncio.to_thread(self._rows.pending_folder_deletions)
        if left:
            removed = await asyncio.to_thread(remove_folders, self._root, left)
            await _committed(self._rows.forget_folder_deletions(removed))
        unknown = besides - {*left, *self._named}
        if unknown:
            self._named |= unknown
            said = "%s holds what is of no adaptation in the database, and is left alone: %s"
            log.warning(said, self._root, ", ".join(sorted(unknown)))

    async def _work(self, job: Adaptation) -> None:
        # Before it is marked as running: whoever cancels it from then on finds it here.
        self._current, self._interrupt = job.id, asyncio.Event()
        if self._stopping:
            return
        try:
            job = await _committed(self._rows.begin(job, self._clock()))
            if job.state.over:
                return
            await self.count()
            ending = Ending(JobState.CANCELLED) if job.cancel else await self._ending(job)
            if ending is not None:
                await self._finish(job, ending)
        finally:
            self._current = ""

    async def _ending(self, job: Adaptation) -> Ending | None:
        """How an adaptation ends; None when the server stops before that."""
        log.info("adaptation %s of site %s: %s", job.id, job.site, job.wish.method)
        folder = self.folder(job.id)
        work = Work(
            job,
            folder,
            self._setup,
            crops=self._rows,
            registry=self._registry,
            in_use=self._in_use,
            run=lambda module, arguments: self._run(module, arguments, folder.log),
            pause=self._pause,
            interrupted=self._interrupt.is_set,
        )
        try:
            return await work.do()
        except WorkInterruptedError:
            # A stop of the server decides nothing, also of one that was cancelled.
            return None if self._stopping else Ending(JobState.CANCELLED)
        except CallError:
            raise
        except Exception:
            log.exception("adaptation %s failed for a fault of the server", job.id)
            return Ending(JobState.FAILED, JobReason.INTERNAL, "a fault of the server; see its log")

    async def _run(self, module: str, arguments: Sequence[str], said: Path) -> int:
        """The exit code of a process, whose words are appended to `said`.

        Raises:
            WorkInterruptedError: it was not begun, or ended before its time.
        """
        if self._interrupt.is_set():
            raise WorkInterruptedError
        process = await self._start(module, arguments, said)
        exit_ = asyncio.ensure_future(process.wait())
        interrupt = asyncio.ensure_future(self._interrupt.wait())
        await asyncio.wait({exit_, interrupt}, return_when=asyncio.FIRST_COMPLETED)
        interrupt.cancel()
        if not exit_.done():
            process.terminate()
            await asyncio.wait({exit_}, timeout=self._setup.stop_s)
            if not exit_.done():
                log.warning("a process that writes to %s did not end in time: killed", said)
                process.kill()
        code = await exit_
        if self._interrupt.is_set():
            raise WorkInterruptedError
        return code

    async def _pause(self, seconds: float) -> None:
        """Let time pass; raises `WorkInterruptedError` as soon as the work is not to go on."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._interrupt.wait(), seconds)
        if self._interrupt.is_set():
            raise WorkInterruptedError

    async def _finish(self, job: Adaptation, ending: Ending) -> None:
        await _committed(
            self._rows.finish(
                job,
                ending.state,
                self._clock(),
                reason=ending.reason,
                error=ending.error,
                model=ending.model,
                judgment=ending.judgment,
            )
        )
        self._metrics.adaptations_ended.labels(ending.state.value.lower()).inc()
        log.info(
            "adaptation %s of site %s: %s %s",
            job.id,
            job.site,
            ending.state.value,
            ending.model or ending.error,
        )


async def _committed(future: Future[T]) -> T:
    return await asyncio.wrap_future(future)
