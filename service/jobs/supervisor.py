"""Works on the adaptations that are not over: one at a time, each in processes of its own.

    crops of the site -> python -m adapt FOLDER -> gate -> registry

What stands in the store and in the folder of an adaptation decides what is left to be done, so that
the work goes on after a stop or a crash of the server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from models.errors import ModelError
from models.registry import Registry
from service.errors import CallError
from service.jobs.folder import JobFolder, tidy_all
from service.jobs.process import Starter
from service.jobs.records import (
    NEEDS_SOURCES,
    NOT_JUDGED,
    Adaptation,
    JobReason,
    JobState,
    Judgement,
)
from service.jobs.rows import JobRows
from service.metrics import Metrics

log = logging.getLogger("resight.jobs")

T = TypeVar("T")

MAX_STARTS = 3
"""Processes that may die without a word in a row before an adaptation fails."""

_RETRY_S = 5.0
"""Pause after the store refused."""


@dataclass(frozen=True, slots=True)
class JobSetup:
    """What adaptations of this server start from.

    inits: run folders of pre-trained networks. sources: folders of labelled crops. device: `auto`,
    `cpu`, `cuda` or `cuda:N`. hold_back: share of the crops that is not learnt from, and that the
    gate judges by, in [0, 1); with 0 it judges by all. stop_s: how long a process may take to keep
    its state, in seconds.
    """

    inits: tuple[Path, ...]
    sources: tuple[Path, ...]
    device: str
    hold_back: float
    stop_s: float


@dataclass(frozen=True, slots=True)
class _Ending:
    state: JobState
    reason: str = ""
    error: str = ""
    model: str = ""
    judgement: Judgement = NOT_JUDGED


class Supervisor:
    """Belongs to one event loop.

    root: of the adaptations' folders. bundle_of: where the bundle lies that a site uses, None where
    that is not known. start: starts processes. clock: the time, aware.
    """

    def __init__(
        self,
        rows: JobRows,
        root: Path,
        registry: Registry,
        setup: JobSetup,
        *,
        bundle_of: Callable[[str], Path | None],
        start: Starter,
        clock: Callable[[], datetime],
        metrics: Metrics,
    ) -> None:
        self._rows = rows
        self._root = root
        self._registry = registry
        self._setup = setup
        self._bundle_of = bundle_of
        self._start = start
        self._clock = clock
        self._metrics = metrics
        self._changed = asyncio.Event()
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
                await asyncio.to_thread(lambda: tidy_all(self._root, self._rows.states()))
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
            ending = _Ending(JobState.CANCELLED) if job.cancel else await self._ending(job)
            if ending is not None:
                await self._finish(job, ending)
        finally:
            self._current = ""

    async def _ending(self, job: Adaptation) -> _Ending | None:
        """How an adaptation ends; None when the server stops before that."""
        log.info("adaptation %s of site %s: %s", job.id, job.site, job.wish.method)
        try:
            return await self._adapt(job)
        except CallError:
            raise
        except OSError as error:
            return _Ending(JobState.FAILED, JobReason.JOB_FOLDER_UNUSABLE, str(error))
        except Exception:
            log.exception("adaptation %s failed for a fault of the server", job.id)
            return _Ending(
                JobState.FAILED, JobReason.INTERNAL, "a fault of the server; see its log"
            )

    async def _adapt(self, job: Adaptation) -> _Ending | None:
        folder = self.folder(job.id)
        if not folder.prepared:
            # Now, not after hours of training.
            await asyncio.to_thread(self._registry.root.mkdir, parents=True, exist_ok=True)
            await asyncio.to_thread(self.prepare, job)
        for _ in range(MAX_STARTS):
            folder.forget_outcome()
            code = await self._run("adapt", [str(folder.path)], folder)
            if self._interrupt.is_set():
                return self._interrupted()
            outcome = folder.outcome()
            if outcome is not None and outcome.state == "finished":
                return await self._deliver(job, folder)
            if outcome is not None and outcome.state == "failed":
                return _Ending(JobState.FAILED, outcome.reason, outcome.error)
            log.warning("the process of adaptation %s ended with exit code %s", job.id, code)
        return _Ending(
            JobState.FAILED,
            JobReason.PROCESS_DIED,
            f"its process ended {MAX_STARTS} times before it was done, the last time with exit "
            f"code {code} ({folder.last_words() or 'without a word'}); see {folder.log}",
        )

    def prepare(self, job: Adaptation) -> None:
        """Write the folder of an adaptation; raises OSError."""
        wish, name = job.wish, job.site.lower()
        sources = self._setup.sources if wish.method in NEEDS_SOURCES else ()
        self.folder(job.id).prepare(
            self._rows.kept_crops(job.site),
            {
                "method": wish.method,
                "recipe": wish.recipe,
                "overrides": list(wish.overrides),
                "seed": wish.seed,
                "device": self._setup.device,
                "hold_back": self._setup.hold_back,
                "inits": [str(path) for path in self._setup.inits],
                "sources": [str(path) for path in sources],
                "name": name,
                "version": self._registry.next_version(name),
            },
        )

    async def _deliver(self, job: Adaptation, folder: JobFolder) -> _Ending | None:
        judgement = await self._judge(job, folder)
        if self._interrupt.is_set():
            return self._interrupted()
        try:
            bundle = await asyncio.to_thread(self._registry.add, folder.bundle)
        except (ModelError, OSError) as error:
            return _Ending(
                JobState.FAILED,
                JobReason.REGISTRY_REFUSED,
                f"the model cannot be registered ({error}); it lies in {folder.bundle}: add it "
                "with `resight models add`",
            )
        return _Ending(JobState.SUCCEEDED, model=bundle.reference, judgement=judgement)

    async def _judge(self, job: Adaptation, folder: JobFolder) -> Judgement:
        """What `resight gate` says of the new model; a gate that ends without a verdict has not
        judged, and the log of the adaptation says why."""
        old = self._bundle_of(job.site)
        if old is None:
            return NOT_JUDGED
        pair = ["--old", str(old), "--new", str(folder.bundle)]
        crops = ["--target", str(folder.crops)]
        if self._setup.hold_back:
            crops += ["--hold-back", str(self._setup.hold_back)]
        rest = ["--json", str(folder.verdict), "--device", self._setup.device]
        await self._run("cli.main", ["gate", *pair, *crops, *rest], folder)
        return folder.judgement()

    async def _run(self, module: str, arguments: Sequence[str], folder: JobFolder) -> int:
        """Run a process to its end, which comes early when the work is interrupted."""
        if self._interrupt.is_set():
            return 0
        process = await self._start(module, arguments, folder.log)
        exit_ = asyncio.ensure_future(process.wait())
        interrupt = asyncio.ensure_future(self._interrupt.wait())
        await asyncio.wait({exit_, interrupt}, return_when=asyncio.FIRST_COMPLETED)
        interrupt.cancel()
        if not exit_.done():
            process.terminate()
            await asyncio.wait({exit_}, timeout=self._setup.stop_s)
            if not exit_.done():
                log.warning("a process of %s did not end in time: killed", folder.path.name)
                process.kill()
        return await exit_

    def _interrupted(self) -> _Ending | None:
        # A stop of the server decides nothing; a cancelled one is found in the store again.
        return None if self._stopping else _Ending(JobState.CANCELLED)

    async def _finish(self, job: Adaptation, ending: _Ending) -> None:
        await _committed(
            self._rows.finish(
                job,
                ending.state,
                self._clock(),
                reason=ending.reason,
                error=ending.error,
                model=ending.model,
                judgement=ending.judgement,
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
