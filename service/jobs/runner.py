"""One adaptation: what is left to be done of it.

    crops of the site -> python -m adapt FOLDER -> gate -> registry

What stands in its folder decides, so that the work goes on after a stop or a crash of the server.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from models.errors import ModelConflictError, ModelError
from models.registry import Registry
from service.jobs.folder import JobFolder, Outcome
from service.jobs.records import (
    NEEDS_SOURCES,
    NOT_JUDGED,
    Adaptation,
    JobReason,
    JobState,
    Judgment,
    model_name,
)
from service.store.records import SeenCrop
from service.types import ModelInUse

log = logging.getLogger("resight.jobs")

PAUSES_S = (10.0, 60.0, 600.0, 3600.0)
"""Time for memory or a disk to become free again: long enough to be noticed and mended."""

MIN_JUDGED = 100
"""The gate does not judge by fewer crops (docs/gate.md)."""


@dataclass(frozen=True, slots=True)
class JobSetup:
    """What adaptations of this server start from.

    inits: run folders of pre-trained networks. sources: folders of labelled crops. device: `auto`,
    `cpu`, `cuda` or `cuda:N`. hold_back: share of the crops that those which begin do not learn
    from, and that the gate judges by, in [0, 1); with 0 it judges by all. stop_s: how long a
    process may take to keep its state, in seconds. own: reference of the server's own model, which
    no new one may have. pauses_s: before each further start of a process that ended before it was
    done, in seconds; one more in a row may end so, with no round finished meanwhile, until the
    adaptation fails.
    """

    inits: tuple[Path, ...]
    sources: tuple[Path, ...]
    device: str
    hold_back: float
    stop_s: float
    own: str
    pauses_s: tuple[float, ...] = PAUSES_S


@dataclass(frozen=True, slots=True)
class Ending:
    """How an adaptation ends; see `Adaptation`."""

    state: JobState
    reason: str = ""
    error: str = ""
    model: str = ""
    judgment: Judgment = NOT_JUDGED


class WorkInterruptedError(Exception):
    """The adaptation was cancelled, or the server stops."""


class Crops(Protocol):
    """Gives the kept crops of a site."""

    def kept_crops(self, site: str) -> Iterable[Sequence[SeenCrop]]:
        """See `JobRows.kept_crops`."""
        ...


class Work:
    """The work on one adaptation.

    in_use: the model that a site answers with, None if it does not. run: runs a Python module with
    arguments to its end and gives its exit code; pause: lets so many seconds pass; both raise
    `WorkInterruptedError`. interrupted: whether to give up.
    """

    def __init__(
        self,
        job: Adaptation,
        folder: JobFolder,
        setup: JobSetup,
        *,
        crops: Crops,
        registry: Registry,
        in_use: Callable[[str], ModelInUse | None],
        run: Callable[[str, Sequence[str]], Awaitable[int]],
        pause: Callable[[float], Awaitable[None]],
        interrupted: Callable[[], bool],
    ) -> None:
        self._job = job
        self._folder = folder
        self._setup = setup
        self._crops = crops
        self._registry = registry
        self._in_use = in_use
        self._run = run
        self._pause = pause
        self._interrupted = interrupted

    async def do(self) -> Ending:
        """Do all of it; raises `WorkInterruptedError`, and what the store raises."""
        try:
            if not self._folder.prepared:
                # Now, not after hours of training.
                await asyncio.to_thread(self._registry.root.mkdir, parents=True, exist_ok=True)
                await asyncio.to_thread(self.prepare)
            failed = await self._train()
            return failed or await self._deliver()
        except OSError as error:
            return Ending(JobState.FAILED, JobReason.JOB_FOLDER_UNUSABLE, str(error))

    def prepare(self) -> None:
        """Write the folder; raises OSError and `WorkInterruptedError`."""
        job, wish, name = self._job, self._job.wish, model_name(self._job.site)
        sources = self._setup.sources if wish.method in NEEDS_SOURCES else ()
        crops = self._folder.prepare(
            self._unless_interrupted(self._crops.kept_crops(job.site)),
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
                "version": self._registry.next_version(name, self._setup.own),
            },
        )
        judged = int(crops * (self._setup.hold_back or 1.0))
        if judged < MIN_JUDGED:
            said = "adaptation %s: of %d crops the gate sees some %d; below %d it says hold"
            log.warning(said, job.id, crops, judged, MIN_JUDGED)

    def _unless_interrupted(
        self, chunks: Iterable[Sequence[SeenCrop]]
    ) -> Iterator[Sequence[SeenCrop]]:
        for chunk in chunks:
            if self._interrupted():
                raise WorkInterruptedError
            yield chunk

    async def _train(self) -> Ending | None:
        """Let it learn, and export; how it ends if there is no model."""
        folder, pauses = self._folder, self._setup.pauses_s
        rounds, in_row = len(folder.rounds()), 0
        while True:
            folder.forget_outcome()
            ended = await self._ended("adapt", [str(folder.path)])
            outcome = folder.outcome()
            if outcome is not None and outcome.state == "finished":
                return None
            if outcome is not None and outcome.state == "failed":
                return Ending(JobState.FAILED, outcome.reason, outcome.error)
            finished = len(folder.rounds())
            in_row = in_row + 1 if finished <= rounds else 0
            rounds = max(rounds, finished)
            if in_row > len(pauses):
                return self._given_up(outcome, ended, in_row)
            pause = pauses[max(in_row - 1, 0)]
            why = outcome.error if outcome is not None else "it did not say why"
            said = "adaptation %s goes on in %.0f s; its process %s: %s"
            log.warning(said, self._job.id, pause, ended, why)
            await self._pause(pause)

    async def _ended(self, module: str, arguments: Sequence[str]) -> str:
        """How a process ended, for people; also one that the system had no room to start."""
        try:
            return f"ended with exit code {await self._run(module, arguments)}"
        except OSError as error:
            return f"could not be started ({error})"

    def _given_up(self, outcome: Outcome | None, ended: str, starts: int) -> Ending:
        """What its processes say that ended before it was done, or that they did not."""
        folder = self._folder
        in_row = f"{starts} processes in a row finished no round"
        if outcome is not None:
            error = f"{outcome.error} ({in_row}); when that is mended, start another adaptation"
            return Ending(JobState.FAILED, outcome.reason, error)
        return Ending(
            JobState.FAILED,
            JobReason.PROCESS_DIED,
            f"{in_row}, the last one {ended} "
            f"({folder.last_words() or 'without a word'}); see {folder.log}, make room in memory "
            "and on the disk, and start another adaptation",
        )

    async def _deliver(self) -> Ending:
        """Have the new model judged, and register it with the verdict."""
        folder = self._folder
        verdict = await self._judge()
        try:
            bundle = await asyncio.to_thread(self._registry.add, folder.bundle, verdict=verdict)
        except ModelConflictError:
            where = folder.path / "run"
            return Ending(
                JobState.FAILED,
                JobReason.REGISTRY_REFUSED,
                "somebody registered another model under its name and version meanwhile; export it "
                f"under another version with `resight export --run {where}`, and add that",
            )
        except (ModelError, OSError) as error:
            return Ending(
                JobState.FAILED,
                JobReason.REGISTRY_REFUSED,
                f"the model cannot be registered ({error}); it lies in {folder.bundle}: add it "
                "with `resight models add`",
            )
        judgment = folder.judgment()
        return Ending(JobState.SUCCEEDED, model=bundle.reference, judgment=judgment)

    async def _judge(self) -> bytes | None:
        """What `resight gate` writes of the new model, and of which one it compared it with; None
        where it ends without a verdict: the log of the adaptation says why."""
        folder = self._folder
        folder.forget_judgment()
        old = self._in_use(self._job.site)
        if old is None:
            return None
        pair = ["--old", str(old.bundle), "--new", str(folder.bundle)]
        crops = ["--target", str(folder.crops)]
        # What it did not learn from: the setting may be another one since it began.
        if hold_back := folder.hold_back():
            crops += ["--hold-back", str(hold_back)]
        rest = ["--json", str(folder.verdict), "--device", self._setup.device]
        ended = await self._ended("cli.main", ["gate", *pair, *crops, *rest])
        if folder.judgment() == NOT_JUDGED:
            log.warning("adaptation %s has no verdict; its gate %s", self._job.id, ended)
            return None
        adaptation = f"sites/{self._job.site}/adaptations/{self._job.id}"
        told = {"adaptation": adaptation, "against": old.reference}
        report = told | json.loads(folder.verdict.read_bytes())
        return json.dumps(report, indent=1).encode() + b"\n"
